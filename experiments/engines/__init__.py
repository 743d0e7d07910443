"""Engines: place commands on machines and report how they ended."""

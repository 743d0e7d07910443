"""Sweep and scale files: read, checked, and turned into settings."""

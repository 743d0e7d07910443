"""Checks of a machine, a home folder and a cluster."""

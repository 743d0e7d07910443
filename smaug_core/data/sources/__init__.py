"""Readers of the captions of real media, one module for each format of annotation files."""

"""Processes that read media ahead of the steps that use them."""

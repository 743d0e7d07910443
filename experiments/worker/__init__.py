"""The process that runs one stage."""

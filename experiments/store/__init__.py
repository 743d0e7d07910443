"""Results and attempts on disk."""

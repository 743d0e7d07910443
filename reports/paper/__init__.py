"""Published tables, claims and contradictions of the paper."""

"""From trained weights to ranks and recall."""

"""The stage graph: trials, their stages, and what is fingerprinted."""

"""Ray Tune, on this machine or on a cluster."""

"""moving_shapes: embedded captioned video, rendered from a seed."""

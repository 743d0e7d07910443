"""Published and measured numbers joined, with statistics."""

"""Platform: sweep files to recorded results; it knows nothing of tensors."""

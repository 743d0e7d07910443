"""From a sweep file to recorded results; knows nothing of tensors."""

"""Example pictures of a trained model."""

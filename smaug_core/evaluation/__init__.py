"""Evaluation of trained weights: ranks and recall."""

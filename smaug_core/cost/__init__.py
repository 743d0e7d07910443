"""Tokens, multiply-accumulates and parameters in closed form."""

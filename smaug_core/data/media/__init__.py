"""Decoding of clips and pictures, as ffmpeg shows them."""

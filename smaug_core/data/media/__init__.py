"""Clips and pictures: decoded as ffmpeg shows them."""

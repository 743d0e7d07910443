"""Public checkpoints: CLIP, BEiT and BERT weights."""

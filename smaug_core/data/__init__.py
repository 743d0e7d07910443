"""Files to batches: frame sampling, decoding, augmentation, captions, the embedded data."""

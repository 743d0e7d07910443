"""From files to batches: which frames, decoding, augmentation, captions, the embedded data."""

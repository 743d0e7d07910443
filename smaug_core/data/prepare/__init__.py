"""Media and captions written to disk before a stage reads them."""

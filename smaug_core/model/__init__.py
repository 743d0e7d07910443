"""The parts of SMAUG, in the paper's order: masking, vision, sparsify, decoder, text, objectives, smaug."""

"""What a product runs: inference graphs, proven equal to what was trained, in every form a runtime reads."""

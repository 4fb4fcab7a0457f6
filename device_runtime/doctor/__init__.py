"""Examining the board: which it is, whether it is fit to train, and how fast it is."""

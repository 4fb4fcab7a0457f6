"""Preparing a card: an official image, or a mounted boot folder, that installs the device runtime by itself."""

"""Artifacts out: the folder that an engine trains from, one writer for each engine."""

"""The version of the distribution, kept where every part can read it without importing anything else."""

VERSION = "0.1.0"

"""One TOML file per board; schema.py says what may stand in it."""

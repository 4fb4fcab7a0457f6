"""Engine `sparse`: train steps in compiled operators whose time is that of the kept weights."""

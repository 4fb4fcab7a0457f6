"""The demonstration: a real broker, one aggregator and N devices as processes on this machine."""

"""Which board this is, what is known of it, and how fast it really is."""

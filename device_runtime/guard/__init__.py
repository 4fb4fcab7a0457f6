"""What stands between a device and what it is sent: graphs are read before a runtime reads them, work has limits."""

"""The pure core: values in, values out; no clock, socket, disk or hidden randomness."""

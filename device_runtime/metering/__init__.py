"""Measuring what a round costs on the device: phases, memory, temperature, frequency."""

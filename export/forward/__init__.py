"""The forward graph: its parameters, its costs, its forms, and the questions asked of it."""

"""The train step whose cost is its kept weights': the forward graph in the layout of the compiled operators."""

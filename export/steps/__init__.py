"""The parts of a train step that are no gradients: losses, optimizers, inputs and outputs."""

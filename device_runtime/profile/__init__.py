"""What a training step costs on this board, measured by a stated method, each value labelled by its source."""

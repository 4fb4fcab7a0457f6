"""Engine `portable`: a train step in standard operators, for any onnxruntime."""

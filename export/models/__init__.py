"""Models in: the zoo, a user's torch model, an ONNX file, all brought into one form."""

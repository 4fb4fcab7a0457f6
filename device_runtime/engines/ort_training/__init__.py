"""Engine `ort_training`: the official artifacts of onnxruntime-training."""

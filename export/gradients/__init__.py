"""Reverse-mode differentiation of ONNX graphs into standard operators: one rule per operator, one tape, one walk."""

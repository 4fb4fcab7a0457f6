"""Reverse-mode differentiation of ONNX graphs into standard operators: one small rule per operator, one tape, one walk."""

"""Where the compiled operators for sparse training lie; onnxruntime loads them, and Python never enters them."""

from pathlib import Path

LIBRARY = Path(__file__).parent / "espalier_kernels.so"

"""The operators that sparse train steps consist of: standard ones, and those of our own compiled library."""

from collections.abc import Mapping

from device_runtime.engines.operators import STANDARD, named

COMPILED = named(
    """
    AveragePool AveragePoolGradient BatchNorm BatchNormGradient ChannelSum Conv ConvInputGradient ConvValueGradient
    Dense Linear LinearInputGradient LinearValueGradient MaxPool MaxPoolGradient Pack Relu ReluGradient Unpack
    """
)
OPERATORS: Mapping[str, frozenset[str]] = {"": STANDARD, "espalier": COMPILED}

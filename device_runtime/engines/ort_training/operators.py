"""The operators that official training graphs consist of: standard ones, and those of onnxruntime-training.

The latter lie in the domain com.microsoft: gradients as the library's gradient builders write them, the forms into
which its graph optimisation brings an operator before it is differentiated, accumulation, and the optimizers. Left out
is what that domain has besides: operators that call Python, attention, quantisation, and contexts compiled elsewhere.
"""

from collections.abc import Mapping

from device_runtime.engines.operators import STANDARD, named

OFFICIAL = named(
    """
    AdamWOptimizer AveragePoolGrad BatchNormalizationGrad BatchNormInternal BiasDropout BiasFastGeluGrad_dX BiasGelu
    BiasGeluGrad_dX BiasSoftmax BitmaskBiasDropout BitmaskDropout BitmaskDropoutGrad ConcatTraining ConvGrad
    ConvTransposeGrad DivGrad DropoutGrad FastGelu FastGeluGrad FusedMatMul GatherElementsGrad GatherGrad
    GatherNDGrad Gelu GeluGrad GRUGrad GRUTraining InPlaceAccumulatorV2 InvertibleLayerNormalizationGrad
    LayerNormalizationGrad LeakyReluGrad LogSoftmaxGrad LogSoftmaxGrad_13 LSTMGrad LSTMTraining MaxPoolGrad
    QuickGelu QuickGeluGrad ReduceSumTraining ReluGrad ResizeGrad Scale ScaledSum SGDOptimizerV2 SigmoidGrad
    SimplifiedLayerNormalization SimplifiedLayerNormalizationGrad SliceGrad SoftmaxCrossEntropyLossGrad
    SoftmaxCrossEntropyLossInternal SoftmaxCrossEntropyLossInternalGrad SoftmaxGrad SoftmaxGrad_13 SplitTraining
    TanhGrad TransposeMatMul
    """
)
# The library's loss, recurrent layers, and a gradient that it puts into the standard domain.
_ALSO_STANDARD = frozenset({"GRU", "LSTM", "MaxPoolGrad", "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"})
OPERATORS: Mapping[str, frozenset[str]] = {"": STANDARD | _ALSO_STANDARD, "com.microsoft": OFFICIAL}

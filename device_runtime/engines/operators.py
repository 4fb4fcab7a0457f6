"""The operators of the standard domain that a train step may consist of, whichever engine runs it.

They are those that have a gradient rule in `export/gradients`, those that the writers of train steps use themselves,
and a few that models compute positions and masks with. None holds a graph, or reads anything but its inputs.
`tests/unit/export/test_operators.py` holds the list against what the writers can write.
"""


def named(names: str) -> frozenset[str]:
    """The operators of a text of names."""
    return frozenset(names.split())


STANDARD = named(
    """
    Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast CastLike Ceil Clip Concat Constant ConstantOfShape
    Conv ConvTranspose Cos CumSum Div Dropout Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements
    GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GroupNormalization HardSigmoid
    HardSwish Identity InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log
    LogSoftmax MatMul Max MaxPool Min Mod Mul Neg Not OneHot Or Pad Pow PRelu Range Reciprocal ReduceL1 ReduceL2
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round
    ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Size Slice Softmax Softplus Softsign Split Sqrt Squeeze
    Sub Sum Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor
    """
)

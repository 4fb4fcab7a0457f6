"""Rules of matrix products: Gemm and MatMul with broadcasting over leading axes."""

import onnx_ir as ir

from export.gradients.broadcasting import unbroadcast
from export.gradients.registry import Applied, Gradients, rule
from export.gradients.tape import Dim, Tape


@rule("Gemm")
def gemm(tape: Tape, node: Applied) -> Gradients:
    """Y = alpha A' B' + beta C: alpha g B'^T and alpha A'^T g, transposed where A' and B' were; beta g for C."""
    g, a, b = node.gradient, node.input(0), node.input(1)
    alpha, beta = node.real("alpha", 1.0), node.real("beta", 1.0)
    ta, tb = node.integer("transA", 0), node.integer("transB", 0)
    left = right = shift = None
    if node.needed[0]:
        first, second, flips = (b, g, (tb, 1)) if ta else (g, b, (0, 1 - tb))
        left = _gemm(tape, first, second, alpha, flips)
    if node.needed[1]:
        first, second, flips = (g, a, (1, ta)) if tb else (a, g, (1 - ta, 0))
        right = _gemm(tape, first, second, alpha, flips)
    if len(node.needed) > 2 and node.needed[2]:
        scaled = g if beta == 1.0 else tape.op("Mul", g, beta)
        shift = unbroadcast(tape, node, scaled, tape.shape(node.y), node.input(2))
    return [left, right, shift]


def _gemm(tape: Tape, a: ir.Value, b: ir.Value, alpha: float, flips: tuple[int, int]) -> ir.Value:
    return tape.op("Gemm", a, b, alpha=alpha, transA=flips[0], transB=flips[1])


@rule("MatMul")
def matmul(tape: Tape, node: Applied) -> Gradients:
    """Y = A B over leading axes that broadcast: g B^T and A^T g, summed over what was broadcast.

    A vector counts as a matrix of one row (A) or one column (B). A weight that all leading axes share gets its
    gradient from one large product.
    """
    a, b, g = node.input(0), node.input(1), node.gradient
    shape_a, shape_b, shape_y = tape.shape(a), tape.shape(b), tape.shape(node.y)
    if len(shape_b) == 1:
        b, shape_b = tape.op("Unsqueeze", b, [1]), (shape_b[0], 1)
        g, shape_y = tape.op("Unsqueeze", g, [-1]), (*shape_y, 1)
    if len(shape_a) == 1:
        a, shape_a = tape.op("Unsqueeze", a, [0]), (1, shape_a[0])
        g, shape_y = tape.op("Unsqueeze", g, [-2]), (*shape_y[:-1], 1, shape_y[-1])
    left = right = None
    if node.needed[0]:
        product = tape.op("MatMul", g, _transposed(tape, b, len(shape_b)))
        left = _summed(tape, node, product, (*shape_y[:-1], shape_a[-1]), shape_a, 0)
    if node.needed[1] and len(shape_b) == 2 and len(shape_a) > 2:
        rows = tape.op("Reshape", a, [-1, _fixed(node, shape_a[-1])])
        right = tape.op("Gemm", rows, tape.op("Reshape", g, [-1, _fixed(node, shape_y[-1])]), transA=1)
        right = _in_shape_of(tape, right, node.input(1))
    elif node.needed[1]:
        product = tape.op("MatMul", _transposed(tape, a, len(shape_a)), g)
        right = _summed(tape, node, product, (*shape_y[:-2], shape_b[-2], shape_y[-1]), shape_b, 1)
    return [left, right]


def _transposed(tape: Tape, x: ir.Value, rank: int) -> ir.Value:
    return tape.op("Transpose", x, perm=[*range(rank - 2), rank - 1, rank - 2])


def _summed(
    tape: Tape, node: Applied, product: ir.Value, shape: tuple[Dim, ...], matrix: tuple[Dim, ...], position: int
) -> ir.Value:
    """`product` summed to the shape of an input, which may have been a vector."""
    to = node.input(position)
    if matrix == tape.shape(to):
        return unbroadcast(tape, node, product, shape, to)
    flat = tape.reduce("ReduceSum", product, list(range(len(shape) - 2)), keepdims=False)
    return _in_shape_of(tape, flat, to)


def _in_shape_of(tape: Tape, x: ir.Value, to: ir.Value) -> ir.Value:
    return x if len(tape.shape(to)) == 2 else tape.reshape_like(x, to)


def _fixed(node: Applied, length: Dim) -> int:
    if isinstance(length, str):
        raise node.refuse(f"contracts an axis of open length {length}", "fix every axis but the batch")
    return length

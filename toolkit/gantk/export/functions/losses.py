# SPDX-License-Identifier: Apache-2.0
"""Functions that measure pictures and features: the Gram matrix and the total variation, with their gradients.

    GramMatrix <scale> (features T[N, C, ...]) => (gram float32[N, C, C])
        scale * F F^T, where F is C rows of K values; a scale of 0 stands for 1 / K.
    GramMatrixGrad <scale> (gradient float32[N, C, C], features T[N, C, ...]) => (features_gradient T[N, C, ...])
        scale * (D + D^T) F.
    TotalVariation <kind, epsilon> (pictures T[N, C, H, W]) => (value float32[N], gradient T[N, C, H, W])
        The variation of each picture and its derivative. `kind` is l1: the sum of |dx| + |dy|; l2: of dx^2 + dy^2;
        isotropic: of sqrt(dx^2 + dy^2 + epsilon). dx and dy are differences with the next pixel to the right and
        below, 0 where there is none.

The Gram matrix is that of Gatys, Ecker and Bethge (arXiv 1508.06576), the variation that of Mahendran and Vedaldi
(arXiv 1412.0035, section 3.2).
"""

from __future__ import annotations

_FACTOR = """
    terms = Shape <start = 2> (rows)
    wide_terms = Cast <to = 1> (terms)
    average = Reciprocal (wide_terms)
    given = Constant <value_float: float = @scale> ()
    is_given = Cast <to = 9> (given)
    factor = Where (is_given, given, average)
"""

_GRAM_MATRIX = """
GramMatrix <scale: float = 0.0> (features) => (gram)
{
    wide = Cast <to = 1> (features)
    by_channel = Constant <value_ints = [0, 0, -1]> ()
    rows = Reshape (wide, by_channel)
    columns = Transpose <perm = [0, 2, 1]> (rows)
    products = MatMul (rows, columns)
    %(factor)s
    gram = Mul (products, factor)
}
"""

_GRAM_MATRIX_GRAD = """
GramMatrixGrad <scale: float = 0.0> (gradient, features) => (features_gradient)
{
    wide = Cast <to = 1> (features)
    by_channel = Constant <value_ints = [0, 0, -1]> ()
    rows = Reshape (wide, by_channel)
    transposed = Transpose <perm = [0, 2, 1]> (gradient)
    both = Add (gradient, transposed)
    %(factor)s
    scaled = Mul (both, factor)
    products = MatMul (scaled, rows)
    shape = Shape (features)
    shaped = Reshape (products, shape)
    features_gradient = CastLike (shaped, features)
}
"""

# What a pixel's differences to the right (dx) and below (dy) add to the value, and its derivatives by dx and dy.
_TERMS = {
    "l1": """
    across = Abs (dx)
    down = Abs (dy)
    terms = Add (across, down)
    by_dx = Sign (dx)
    by_dy = Sign (dy)
""",
    "l2": """
    across = Mul (dx, dx)
    down = Mul (dy, dy)
    terms = Add (across, down)
    by_dx = Add (dx, dx)
    by_dy = Add (dy, dy)
""",
    "isotropic": """
    across = Mul (dx, dx)
    down = Mul (dy, dy)
    squares = Add (across, down)
    smoothing = Constant <value_float: float = @epsilon> ()
    smoothed = Add (squares, smoothing)
    terms = Sqrt (smoothed)
    by_dx = Div (dx, terms)
    by_dy = Div (dy, terms)
""",
}

# Replicated borders make the differences beyond them 0; a derivative by dx counts against its own pixel and for
# the next one. Shifts are a border and a slice, which a picture of one row or column survives.
_TOTAL_VARIATION = """
TotalVariation <kind: string = "%(kind)s", epsilon: float = 1e-8> (pictures) => (value, gradient)
{
    wide = Cast <to = 1> (pictures)
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    before_last = Constant <value_ints = [-1]> ()
    end = Constant <value_ints = [9223372036854775807]> ()
    rows = Constant <value_ints = [2]> ()
    columns = Constant <value_ints = [3]> ()
    border_right = Constant <value_ints = [0, 0, 0, 0, 0, 0, 0, 1]> ()
    border_below = Constant <value_ints = [0, 0, 0, 0, 0, 0, 1, 0]> ()
    wider = Pad <mode = "edge"> (wide, border_right)
    higher = Pad <mode = "edge"> (wide, border_below)
    right = Slice (wider, one, end, columns)
    below = Slice (higher, one, end, rows)
    dx = Sub (right, wide)
    dy = Sub (below, wide)
    %(terms)s
    picture_axes = Constant <value_ints = [1, 2, 3]> ()
    value = ReduceSum <keepdims = 0> (terms, picture_axes)
    border_left = Constant <value_ints = [0, 0, 0, 1, 0, 0, 0, 0]> ()
    border_above = Constant <value_ints = [0, 0, 1, 0, 0, 0, 0, 0]> ()
    wider_by_dx = Pad (by_dx, border_left)
    higher_by_dy = Pad (by_dy, border_above)
    from_left = Slice (wider_by_dx, zero, before_last, columns)
    from_above = Slice (higher_by_dy, zero, before_last, rows)
    horizontal = Sub (from_left, by_dx)
    vertical = Sub (from_above, by_dy)
    wide_gradient = Add (horizontal, vertical)
    gradient = CastLike (wide_gradient, pictures)
}
"""

KINDS = tuple(_TERMS)
"""The kinds of total variation."""


def texts(kind: str) -> tuple[str, ...]:
    """All of them, with a total variation of one kind."""
    return (
        _GRAM_MATRIX % {"factor": _FACTOR},
        _GRAM_MATRIX_GRAD % {"factor": _FACTOR},
        _TOTAL_VARIATION % {"kind": kind, "terms": _TERMS[kind]},
    )

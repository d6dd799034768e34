# SPDX-License-Identifier: Apache-2.0
"""Convolutions and pooling of pictures with channels first.

Convolution3x3 (features T[N, C, H, W], weights T[K, C, 3, 3], bias T[K]?) => (result T[N, K, H, W])
    Of stride 1, with a border of one zero. The native kernel is float32 alone, and loses about a digit against
    sums of products (Lavin and Gray, arXiv 1509.09308).
ReflectedConvolution3x3: the same with a border of the second row and column and of the last but one.
TransposedConvolution4x4 (features T[N, C, H, W], weights T[C, K, 4, 4], bias T[K]?)
        => (result T[N, K, 2H, 2W])
    Of stride 2 and padding 1, as generators double a picture. The same holds for its native kernel.
Convolution3x3Relu, TransposedConvolution4x4Relu: the same, and negative results become 0.
Convolution3x3ReluGrad (gradient T[N, K, H, W], result T[N, K, H, W], weights T[K, C, 3, 3])
        => (features_gradient T[N, C, H, W])
    The gradient of a Convolution3x3Relu by its features, from what it made and the gradient by that. Its weights
    are the convolution's own, so that a file stores them once; bodies turn them, which backends do beforehand.
MaxPool2x2 (features T[N, C, H, W]) => (pooled T[N, C, h, w])
    The maxima of windows of 2 x 2, side by side; h = floor(H / 2), w = floor(W / 2).
MaxPool2x2Grad (gradient T[N, C, h, w], features T[N, C, H, W], pooled T[N, C, h, w])
        => (features_gradient T[N, C, H, W])
    The gradient of each window at the first of its four features, row by row, that is its maximum, as in PyTorch;
    0 elsewhere, and in an odd last row and column.
"""

from __future__ import annotations

# By name: the operator that a convolution is, and how.
_CONVOLUTIONS = {
    "Convolution3x3": "Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]>",
    "TransposedConvolution4x4": "ConvTranspose <kernel_shape = [4, 4], strides = [2, 2], pads = [1, 1, 1, 1]>",
}

_CONVOLUTION = """
%(name)s (features, weights, bias) => (result)
{
    result = %(operator)s (features, weights, bias)
}
"""

_CONVOLUTION_RELU = """
%(name)sRelu (features, weights, bias) => (result)
{
    sums = %(operator)s (features, weights, bias)
    result = Relu (sums)
}
"""

_REFLECTED_CONVOLUTION = """
ReflectedConvolution3x3 (features, weights, bias) => (result)
{
    border = Constant <value_ints = [0, 0, 1, 1, 0, 0, 1, 1]> ()
    bordered = Pad <mode = "reflect"> (features, border)
    result = Conv <kernel_shape = [3, 3]> (bordered, weights, bias)
}
"""

_CONVOLUTION_RELU_GRAD = """
Convolution3x3ReluGrad (gradient, result, weights) => (features_gradient)
{
    zero = Constant <value_float = 0.0> ()
    nothing = CastLike (zero, gradient)
    passes = Greater (result, nothing)
    passed = Where (passes, gradient, nothing)
    back = Constant <value_ints = [-1, -1]> ()
    end = Constant <value_ints = [-9223372036854775807, -9223372036854775807]> ()
    sides = Constant <value_ints = [2, 3]> ()
    swapped = Transpose <perm = [1, 0, 2, 3]> (weights)
    turned = Slice (swapped, back, end, sides, back)
    features_gradient = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (passed, turned)
}
"""

_MAX_POOL_2X2 = """
MaxPool2x2 (features) => (pooled)
{
    pooled = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (features)
}
"""

# A window's corner takes what is left of its gradient if it is the maximum; the last takes the rest.
_MAX_POOL_2X2_GRAD = """
MaxPool2x2Grad (gradient, features, pooled) => (features_gradient)
{
    zero = Constant <value_float = 0.0> ()
    nothing = CastLike (zero, gradient)
    plane_axes = Constant <value_ints = [2, 3]> ()
    two = Constant <value_ints = [2, 2]> ()
    windows = Shape <start = 2> (pooled)
    even = Mul (windows, two)
    rest0 = Identity (gradient)
    %(corners)s
    corners = Concat <axis = 1> (corner0, corner1, corner2, rest3)
    spread = DepthToSpace <blocksize = 2, mode = "DCR"> (corners)
    size = Shape (features)
    size_of_spread = Shape (spread)
    lacking = Sub (size, size_of_spread)
    before = Constant <value_ints = [0, 0, 0, 0]> ()
    pads = Concat <axis = 0> (before, lacking)
    features_gradient = Pad (spread, pads)
}
"""

_CORNER = """
    start%(corner)d = Constant <value_ints = [%(row)d, %(column)d]> ()
    values%(corner)d = Slice (features, start%(corner)d, even, plane_axes, two)
    wins%(corner)d = Equal (values%(corner)d, pooled)
    corner%(corner)d = Where (wins%(corner)d, rest%(corner)d, nothing)
    rest%(next)d = Sub (rest%(corner)d, corner%(corner)d)
"""

_CORNERS = "".join(
    _CORNER % {"corner": corner, "next": corner + 1, "row": corner // 2, "column": corner % 2}
    for corner in range(3)
)

TEXTS = (
    *(
        text % {"name": name, "operator": operator}
        for name, operator in _CONVOLUTIONS.items()
        for text in (_CONVOLUTION, _CONVOLUTION_RELU)
    ),
    _REFLECTED_CONVOLUTION,
    _CONVOLUTION_RELU_GRAD,
    _MAX_POOL_2X2,
    _MAX_POOL_2X2_GRAD % {"corners": _CORNERS},
)

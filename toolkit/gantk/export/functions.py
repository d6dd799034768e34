# SPDX-License-Identifier: Apache-2.0
"""The operators of the domain `gantk` as ONNX local functions.

A file holds them as nodes in the domain `gantk`, each with a portable body of standard operators: a backend that
has a kernel takes the node, any other the body. Bodies of sums over a picture take float16, bfloat16 and float32 and
compute in float32, so that they neither overflow nor lose their small terms.

    GramMatrix <scale> (features T[N, C, ...]) => (gram float32[N, C, C])
        scale * F F^T, where F is C rows of K values; a scale of 0 stands for 1 / K.
    GramMatrixGrad <scale> (gradient float32[N, C, C], features T[N, C, ...]) => (features_gradient T[N, C, ...])
        scale * (D + D^T) F.
    TotalVariation <kind, epsilon> (pictures T[N, C, H, W]) => (value float32[N], gradient T[N, C, H, W])
        The variation of each picture and its derivative. `kind` is l1: the sum of |dx| + |dy|; l2: of dx^2 + dy^2;
        isotropic: of sqrt(dx^2 + dy^2 + epsilon). dx and dy are differences with the next pixel to the right and
        below, 0 where there is none.
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
    InstanceNorm <epsilon, from_blocksize, to_blocksize, mode, pads>
            (features T[N, h, w, b^2 C], starts int64[2], ends int64[2], scale float32[C], offset float32[C])
            => (result T[N, h', w', t^2 C])
        Instance normalisation between convolutions with channels last, and all that moves pixels between them. Blocks
        of b x b pixels (`from_blocksize`) become pixels, as DepthToSpace has them; pictures are cut from these, as
        Slice does for rows and columns, and normalised; they get a border, as Pad with `mode` and `pads` gives N x C x
        H x W, then zeros below and to the right up to whole blocks of t x t (`to_blocksize`), which become channels,
        as SpaceToDepth has them. Scale and offset may be [N, C].
    InstanceNormRelu: the same, and negative results become 0, before the border.
    InstanceNormSum <..., others_pads> (..., others T[N, H', W', C]): the same, and others are added, cut by
        `others_pads`, which are amounts of Pad too, none above 0.
    BorderedBlocks <to_blocksize, mode, pads> (features T[N, H, W, C]) => (result T[N, h', w', t^2 C])
        Only the border and the blocks of an InstanceNorm.
    NhwcConvolution <strides> (features T[N, H, W, C], weights T[K, C, kh, kw], bias T[K]?) => (result T[N, h, w, K])
        With channels last, without a border. `strides` are those of rows and of columns, 1 if not given.
    NhwcTransposedConvolution4x4 <pads> (features T[N, H, W, C], weights T[C, K, 4, 4], bias T[K]?)
            => (result T[N, h, w, K])
        Of stride 2, with channels last. `pads` are of ConvTranspose: all 1 if not given, and the picture doubles, or
        all 3, and it lacks the two outermost pixels of that on each side.
    NhwcConvolutionRelu, NhwcTransposedConvolution4x4Relu: the same, and negative results become 0.
    BiasRelu (features T[N, H, W, C], bias float32[C]) => (result T[N, H, W, C])
        features + bias, and negative results become 0.
    Sizes <factor, growth> (sizes int64[2]) => (result int64[2])
        sizes * factor + growth, which ONNX Runtime computes on the CPU even where it would take it to a GPU and back.

The Gram matrix is that of Gatys, Ecker and Bethge (arXiv 1508.06576), the variation that of Mahendran and Vedaldi
(arXiv 1412.0035, section 3.2), instance normalisation that of Ulyanov, Vedaldi and Lempitsky (arXiv 1607.08022).
"""

from __future__ import annotations

import onnx
import onnx.parser

DOMAIN = "gantk"
VERSION = 1
KINDS = ("l1", "l2", "isotropic")

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

_FACTOR = """
    terms = Shape <start = 2> (rows)
    wide_terms = Cast <to = 1> (terms)
    average = Reciprocal (wide_terms)
    given = Constant <value_float: float = @scale> ()
    is_given = Cast <to = 9> (given)
    factor = Where (is_given, given, average)
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

# By name: its attribute, and the operator that it is with channels first.
_NHWC_CONVOLUTIONS = {
    "NhwcConvolution": ("strides: ints = [1, 1]", "Conv <strides: ints = @strides>"),
    "NhwcTransposedConvolution4x4": (
        "pads: ints = [1, 1, 1, 1]",
        "ConvTranspose <kernel_shape = [4, 4], strides = [2, 2], pads: ints = @pads>",
    ),
}

_NHWC_CONVOLUTION = """
%(name)s <%(attribute)s> (features, weights, bias) => (result)
{
    planes = Transpose <perm = [0, 3, 1, 2]> (features)
    sums = %(operator)s (planes, weights, bias)
    result = Transpose <perm = [0, 2, 3, 1]> (sums)
}
"""

_NHWC_CONVOLUTION_RELU = """
%(name)sRelu <%(attribute)s> (features, weights, bias) => (result)
{
    planes = Transpose <perm = [0, 3, 1, 2]> (features)
    sums = %(operator)s (planes, weights, bias)
    active = Relu (sums)
    result = Transpose <perm = [0, 2, 3, 1]> (active)
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

# A border, zeros up to whole blocks, and blocks as channels, which come last.
_BLOCKS = """
    amounts = Constant <value_ints: ints = @pads> ()
    framed = Pad <mode: string = @mode> (narrow, amounts)
    size = Shape <start = 2, end = 4> (framed)
    negative = Neg (size)
    block = Constant <value_int: int = @to_blocksize> ()
    lack = Mod (negative, block)
    before = Constant <value_ints = [0, 0, 0, 0, 0, 0]> ()
    fill = Concat <axis = 0> (before, lack)
    whole = Pad (framed, fill)
    blocks = SpaceToDepth <blocksize: int = @to_blocksize> (whole)
    result = Transpose <perm = [0, 2, 3, 1]> (blocks)
"""

_BORDERED_BLOCKS = """
BorderedBlocks <to_blocksize: int = 1, mode: string = "constant", pads: ints = [0, 0, 0, 0, 0, 0, 0, 0]>
          (features) => (result)
{
    narrow = Transpose <perm = [0, 3, 1, 2]> (features)
    %(blocks)s
}
"""

_BIAS_RELU = """
BiasRelu (features, bias) => (result)
{
    wide = Cast <to = 1> (features)
    sums = Add (wide, bias)
    active = Relu (sums)
    result = CastLike (active, features)
}
"""

_SIZES = """
Sizes <factor: int = 1, growth: ints = [0, 0]> (sizes) => (result)
{
    given = Constant <value_int: int = @factor> ()
    scaled = Mul (sizes, given)
    more = Constant <value_ints: ints = @growth> ()
    result = Add (scaled, more)
}
"""

_INSTANCE_NORM = """
%(name)s <epsilon: float = 1e-5, from_blocksize: int = 1, to_blocksize: int = 1, mode: string = "constant",
          pads: ints = [0, 0, 0, 0, 0, 0, 0, 0]%(attribute)s>
          (features, starts, ends, scale, offset%(input)s) => (result)
{
    wide = Cast <to = 1> (features)
    planes = Transpose <perm = [0, 3, 1, 2]> (wide)
    pixels = DepthToSpace <blocksize: int = @from_blocksize, mode = "DCR"> (planes)
    sides = Constant <value_ints = [2, 3]> ()
    pictures = Slice (pixels, starts, ends, sides)
    mean = ReduceMean (pictures, sides)
    centred = Sub (pictures, mean)
    squares = Mul (centred, centred)
    variance = ReduceMean (squares, sides)
    smoothing = Constant <value_float: float = @epsilon> ()
    smoothed = Add (variance, smoothing)
    deviation = Sqrt (smoothed)
    normal = Div (centred, deviation)
    any = Constant <value_ints = [-1]> ()
    channels = Shape <start = 1, end = 2> (pictures)
    one = Constant <value_ints = [1, 1]> ()
    by_channel = Concat <axis = 0> (any, channels, one)
    factor = Reshape (scale, by_channel)
    shift = Reshape (offset, by_channel)
    scaled = Mul (normal, factor)
    shifted = Add (scaled, shift)
    %(end)s
    narrow = CastLike (ended, features)
    %(blocks)s
}
"""

# By what comes after the name: the attributes and inputs that it adds, and what it does before the border.
_NORM_ENDS = {
    "": ("", "", "ended = Identity (shifted)"),
    "Relu": ("", "", "ended = Relu (shifted)"),
    "Sum": (
        ", others_pads: ints = [0, 0, 0, 0, 0, 0, 0, 0]",
        ", others",
        """
    wide_others = Cast <to = 1> (others)
    other_planes = Transpose <perm = [0, 3, 1, 2]> (wide_others)
    cut = Constant <value_ints: ints = @others_pads> ()
    added = Pad (other_planes, cut)
    ended = Add (shifted, added)
""",
    ),
}


def bodies(opset: int, kind: str = "l1") -> list[onnx.FunctionProto]:
    """All functions.

    Args:
        opset: The version of the default domain that the model uses; bodies are written in the same.
        kind: Of the total variation, one of `KINDS`. A body cannot choose by a string, so that all
            `TotalVariation` nodes of one file are of one kind.
    """
    texts = (
        _GRAM_MATRIX % {"factor": _FACTOR},
        _GRAM_MATRIX_GRAD % {"factor": _FACTOR},
        _TOTAL_VARIATION % {"kind": kind, "terms": _TERMS[kind]},
        *(
            text % {"name": name, "operator": operator}
            for name, operator in _CONVOLUTIONS.items()
            for text in (_CONVOLUTION, _CONVOLUTION_RELU)
        ),
        *(
            text % {"name": name, "attribute": attribute, "operator": operator}
            for name, (attribute, operator) in _NHWC_CONVOLUTIONS.items()
            for text in (_NHWC_CONVOLUTION, _NHWC_CONVOLUTION_RELU)
        ),
        _REFLECTED_CONVOLUTION,
        _CONVOLUTION_RELU_GRAD,
        _MAX_POOL_2X2,
        _MAX_POOL_2X2_GRAD % {"corners": _CORNERS},
        *(
            _INSTANCE_NORM
            % {
                "name": f"InstanceNorm{name}",
                "attribute": attribute,
                "input": more,
                "end": end,
                "blocks": _BLOCKS,
            }
            for name, (attribute, more, end) in _NORM_ENDS.items()
        ),
        _BORDERED_BLOCKS % {"blocks": _BLOCKS},
        _BIAS_RELU,
        _SIZES,
    )
    header = f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]>'
    return [onnx.parser.parse_function(header + text) for text in texts]

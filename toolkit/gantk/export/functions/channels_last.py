# SPDX-License-Identifier: Apache-2.0
"""Convolutions, instance normalisation and what lies between them, of pictures with channels last.

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
    NhwcConvolution <strides, pads, dilations> (features T[N, H, W, C], weights T[K, C, kh, kw], bias T[K]?)
            => (result T[N, h, w, K])
        With channels last. `strides`, `dilations` and `pads` are of Conv, for rows and columns alike: 1, 1 and none if
        not given.
    NhwcTransposedConvolution4x4 <pads> (features T[N, H, W, C], weights T[C, K, 4, 4], bias T[K]?)
            => (result T[N, h, w, K])
        Of stride 2, with channels last. `pads` are of ConvTranspose: all 1 if not given, and the picture doubles;
        [1, 1, 0, 0], and it has one row and one column more below and to the right; or all 3, and it lacks the two
        outermost pixels of the double on each side.
    NhwcConvolutionRelu, NhwcTransposedConvolution4x4Relu: the same, and negative results become 0.
    NhwcConvolutionPRelu, NhwcTransposedConvolution4x4PRelu (..., bias, slopes T[K]): the same, and negative results are
        multiplied with slopes.
    NhwcConvolutionSum, NhwcTransposedConvolution4x4Sum (..., bias, others T[N, h, w, K]): the same, and others are
        added.
    NhwcDepthwiseConvolution <group, strides, pads> (features T[N, H, W, C], weights T[C, 1, kh, kw], bias T[C]?)
            => (result T[N, h, w, C])
        Of each channel by itself. `group` is their number, which a body cannot ask for; `strides` and `pads` are of
        Conv, each of its own: 1 and none if not given.
    NhwcDepthwiseConvolutionRelu, NhwcDepthwiseConvolutionPRelu (..., bias, slopes T[C]): as those of NhwcConvolution.
    NhwcDepthwiseTransposed <group, strides, pads, output_padding> (features T[N, H, W, C], weights T[C, 1, kh, kw],
            bias T[C]?) => (result T[N, h, w, C])
        The same, transposed; the attributes are of ConvTranspose.
    NhwcDepthwiseTransposedRelu, NhwcDepthwiseTransposedPRelu (..., bias, slopes T[C]): as those of NhwcConvolution.
    NhwcPRelu (features T[N, H, W, C], slopes T[C]) => (result T[N, H, W, C])
        Negative values are multiplied with the slope of their channel (He et al., arXiv 1502.01852).
    NhwcClip <low, high> (features T[N, H, W, C]) => (result T[N, H, W, C])
        Values below `low` become that, then those above `high` that, in float32, which bounds of a narrower type are
        rounded from; NaN stays NaN. Without a bound it is the last finite number of float32, as that of Clip
        (StyleGAN2-ADA's and StyleGAN3's clamp: Karras et al., arXiv 2006.06676, 2106.12423).
    NhwcMaxPool2x2 <ceil_mode> (features T[N, H, W, C]) => (pooled T[N, h, w, C])
        The maximum of windows of 2 x 2, side by side. An odd last row or column is in none, or with a `ceil_mode` of 1
        in windows of its own.
    NhwcAffine (features T[N, H, W, C], factors float32[M, C], offsets float32[L, C]) => (result T[N, H, W, C])
        features * factors + offsets, computed in float32: a factor and an offset for each channel, alike for all
        pictures, where M or L is 1, or of each picture its own, where it is N (StyleGAN2's demodulation,
        class-conditional batch normalisation, FiLM, attention to channels).
    NhwcAffineSum (..., others T[P, H, W, Q]): the same, and others are added; P is 1 or N, and Q is C, or 1 for one
        number for each pixel (StyleGAN2's noise).
    NhwcAffinePRelu (..., slopes float32[C]): the same, and negative results are multiplied with slopes.
    NhwcAffineSumPRelu (..., others, slopes): the same, and others are added, then negative results multiplied.
    NhwcAffineSilu, NhwcAffineSumSilu: as without it, and results y become y * sigmoid(y).
    NhwcGroupNorm <groups, epsilon> (features T[N, H, W, C], scale float32[C], offset float32[C])
            => (result T[N, H, W, C])
        Group normalisation: the values of each picture's `groups` groups of neighbouring channels have mean 0 and
        variance 1 before they are scaled; C is a multiple of `groups`.
    NhwcGroupNormSilu: the same, and results y become y * sigmoid(y).
    NhwcLayerNorm <epsilon> (features T[N, H, W, C], scale float32[C], offset float32[C]) => (result T[N, H, W, C])
        Each pixel is normalised over its channels (Ba, Kiros and Hinton, arXiv 1607.06450), computed in float32.
    NhwcRmsNorm: the same, of the mean square of the channels themselves (Karras et al., arXiv 1710.10196, section 4.2).
    NhwcGate (features T[N, H, W, 2C]) => (result T[N, H, W, C])
        The first half of the channels times the second (Chen et al., arXiv 2204.04676).
    NhwcGlu: the same, of the second half's sigmoid, computed in float32 (Dauphin et al., arXiv 1612.08083).
    BiasRelu (features T[N, H, W, C], bias float32[C]) => (result T[N, H, W, C])
        features + bias, and negative results become 0.
    ToPicture (features T[N, H, W, C], before float32[C], weights T[C, M, 4, 4], bias float32[M])
            => (picture T[N, M, 2H, 2W])
        The last layer of a generator, whose picture has channels first: BiasRelu with `before`, a transposed
        convolution of stride 2 and padding 1, a bias, and Tanh (Radford, Metz and Chintala, arXiv 1511.06434).
    Sizes <factor, growth> (sizes int64[2]) => (result int64[2])
        sizes * factor + growth, which ONNX Runtime computes on the CPU even where it would take it to a GPU and back.

Instance normalisation is that of Ulyanov, Vedaldi and Lempitsky (arXiv 1607.08022), group normalisation that of Wu and
He (arXiv 1803.08494).
"""

from __future__ import annotations

# By name: its attributes, and the operator that it is with channels first.
_NHWC_CONVOLUTIONS = {
    "NhwcConvolution": (
        "strides: ints = [1, 1], pads: ints = [0, 0, 0, 0], dilations: ints = [1, 1]",
        "Conv <strides: ints = @strides, pads: ints = @pads, dilations: ints = @dilations>",
    ),
    "NhwcTransposedConvolution4x4": (
        "pads: ints = [1, 1, 1, 1]",
        "ConvTranspose <kernel_shape = [4, 4], strides = [2, 2], pads: ints = @pads>",
    ),
    "NhwcDepthwiseConvolution": (
        "group: int = 1, strides: ints = [1, 1], pads: ints = [0, 0, 0, 0]",
        "Conv <group: int = @group, strides: ints = @strides, pads: ints = @pads>",
    ),
    "NhwcDepthwiseTransposed": (
        "group: int = 1, strides: ints = [1, 1], pads: ints = [0, 0, 0, 0], output_padding: ints = [0, 0]",
        "ConvTranspose <group: int = @group, strides: ints = @strides, pads: ints = @pads,"
        " output_padding: ints = @output_padding>",
    ),
}

_NHWC_CONVOLUTION = """
%(name)s%(ending)s <%(attribute)s> (features, weights, bias%(input)s) => (result)
{
    planes = Transpose <perm = [0, 3, 1, 2]> (features)
    sums = %(operator)s (planes, weights, bias)
    %(end)s
    result = Transpose <perm = [0, 2, 3, 1]> (ended)
}
"""

# By what comes after the name: the input that it adds, and what it does.
_NHWC_ENDS = {
    "": ("", "ended = Identity (sums)"),
    "Relu": ("", "ended = Relu (sums)"),
    "PRelu": (
        ", slopes",
        """
    sides = Constant <value_ints = [1, 2]> ()
    by_channel = Unsqueeze (slopes, sides)
    ended = PRelu (sums, by_channel)
""",
    ),
    "Sum": (
        ", others",
        """
    other_planes = Transpose <perm = [0, 3, 1, 2]> (others)
    ended = Add (sums, other_planes)
""",
    ),
}

_NHWC_PRELU = """
NhwcPRelu (features, slopes) => (result)
{
    result = PRelu (features, slopes)
}
"""

_NHWC_CLIP = """
NhwcClip <low: float = -3.4028235e38, high: float = 3.4028235e38> (features) => (result)
{
    wide = Cast <to = 1> (features)
    least = Constant <value_float: float = @low> ()
    most = Constant <value_float: float = @high> ()
    ended = Clip (wide, least, most)
    result = CastLike (ended, features)
}
"""

_NHWC_MAX_POOL = """
NhwcMaxPool2x2 <ceil_mode: int = 0> (features) => (pooled)
{
    planes = Transpose <perm = [0, 3, 1, 2]> (features)
    maxima = MaxPool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode: int = @ceil_mode> (planes)
    pooled = Transpose <perm = [0, 2, 3, 1]> (maxima)
}
"""

_NHWC_AFFINE = """
NhwcAffine%(name)s (features, factors, offsets%(input)s) => (result)
{
    wide = Cast <to = 1> (features)
    sides = Constant <value_ints = [1, 2]> ()
    by_channel = Unsqueeze (factors, sides)
    scaled = Mul (wide, by_channel)
    shift = Unsqueeze (offsets, sides)
    shifted = Add (scaled, shift)
    %(end)s
    result = CastLike (ended, features)
}
"""

_SUM = """
    wide_others = Cast <to = 1> (others)
    sums = Add (shifted, wide_others)
"""

_SILU = """
    gate = Sigmoid (%(given)s)
    ended = Mul (%(given)s, gate)
"""

# By what comes after the name: the inputs that it adds, and what it does.
_AFFINE_ENDS = {
    "": ("", "ended = Identity (shifted)"),
    "Sum": (", others", f"{_SUM}    ended = Identity (sums)"),
    "PRelu": (", slopes", "ended = PRelu (shifted, slopes)"),
    "SumPRelu": (", others, slopes", f"{_SUM}    ended = PRelu (sums, slopes)"),
    "Silu": ("", _SILU % {"given": "shifted"}),
    "SumSilu": (", others", f"{_SUM}{_SILU % {'given': 'sums'}}"),
}

_NORMAL = """
    mean = ReduceMean (%(of)s, %(axes)s)
    centred = Sub (%(of)s, mean)
    squares = Mul (centred, centred)
    variance = ReduceMean (squares, %(axes)s)
    smoothing = Constant <value_float: float = @epsilon> ()
    smoothed = Add (variance, smoothing)
    deviation = Sqrt (smoothed)
    normal = Div (centred, deviation)
"""

_GROUP_NORM = """
NhwcGroupNorm%(name)s <groups, epsilon: float = 1e-5> (features, scale, offset) => (result)
{
    wide = Cast <to = 1> (features)
    sizes = Shape (wide)
    same = Constant <value_ints = [0, 0, 0]> ()
    number = Constant <value_int: int = @groups> ()
    rest = Constant <value_ints = [-1]> ()
    groups = Reshape (number, rest)
    split = Concat <axis = 0> (same, groups, rest)
    parts = Reshape (wide, split)
    others = Constant <value_ints = [1, 2, 4]> ()
    %(normal)s
    pictures = Reshape (normal, sizes)
    scaled = Mul (pictures, scale)
    shifted = Add (scaled, offset)
    %(end)s
    result = CastLike (ended, features)
}
"""

# By what comes after the name.
_GROUP_NORM_ENDS = {"": "ended = Identity (shifted)", "Silu": _SILU % {"given": "shifted"}}

_NHWC_LAYER_NORM = """
NhwcLayerNorm <epsilon: float = 1e-5> (features, scale, offset) => (result)
{
    wide = Cast <to = 1> (features)
    normal = LayerNormalization <axis = -1, epsilon: float = @epsilon> (wide, scale, offset)
    result = CastLike (normal, features)
}
"""

_NHWC_RMS_NORM = """
NhwcRmsNorm <epsilon: float = 1e-5> (features, scale, offset) => (result)
{
    wide = Cast <to = 1> (features)
    squares = Mul (wide, wide)
    axes = Constant <value_ints = [-1]> ()
    mean = ReduceMean <keepdims = 1> (squares, axes)
    more = Constant <value_float: float = @epsilon> ()
    sum = Add (mean, more)
    root = Sqrt (sum)
    normal = Div (wide, root)
    scaled = Mul (normal, scale)
    shifted = Add (scaled, offset)
    result = CastLike (shifted, features)
}
"""

_NHWC_GATE = """
NhwcGate (features) => (result)
{
    first, second = Split <axis = -1, num_outputs = 2> (features)
    result = Mul (first, second)
}
"""

_NHWC_GLU = """
NhwcGlu (features) => (result)
{
    wide = Cast <to = 1> (features)
    first, second = Split <axis = -1, num_outputs = 2> (wide)
    gate = Sigmoid (second)
    ended = Mul (first, gate)
    result = CastLike (ended, features)
}
"""

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

_TO_PICTURE = """
ToPicture (features, before, weights, bias) => (picture)
{
    wide = Cast <to = 1> (features)
    sums = Add (wide, before)
    active = Relu (sums)
    rounded = CastLike (active, features)
    planes = Transpose <perm = [0, 3, 1, 2]> (rounded)
    made = ConvTranspose <kernel_shape = [4, 4], strides = [2, 2], pads = [1, 1, 1, 1]> (planes, weights)
    wide_made = Cast <to = 1> (made)
    sides = Constant <value_ints = [1, 2]> ()
    by_channel = Unsqueeze (bias, sides)
    biased = Add (wide_made, by_channel)
    ended = Tanh (biased)
    picture = CastLike (ended, features)
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
    %(normal)s
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

TEXTS = (
    *(
        _NHWC_CONVOLUTION
        % {
            "name": name,
            "ending": ending,
            "attribute": attribute,
            "operator": operator,
            "input": more,
            "end": end,
        }
        for name, (attribute, operator) in _NHWC_CONVOLUTIONS.items()
        for ending, (more, end) in _NHWC_ENDS.items()
        if ending != "Sum" or not name.startswith("NhwcDepthwise")
    ),
    _NHWC_PRELU,
    _NHWC_CLIP,
    _NHWC_MAX_POOL,
    *(_NHWC_AFFINE % {"name": name, "input": more, "end": end} for name, (more, end) in _AFFINE_ENDS.items()),
    *(
        _GROUP_NORM % {"name": name, "end": end, "normal": _NORMAL % {"of": "parts", "axes": "others"}}
        for name, end in _GROUP_NORM_ENDS.items()
    ),
    _NHWC_LAYER_NORM,
    _NHWC_RMS_NORM,
    _NHWC_GATE,
    _NHWC_GLU,
    *(
        _INSTANCE_NORM
        % {
            "name": f"InstanceNorm{name}",
            "attribute": attribute,
            "input": more,
            "end": end,
            "blocks": _BLOCKS,
            "normal": _NORMAL % {"of": "pictures", "axes": "sides"},
        }
        for name, (attribute, more, end) in _NORM_ENDS.items()
    ),
    _BORDERED_BLOCKS % {"blocks": _BLOCKS},
    _BIAS_RELU,
    _TO_PICTURE,
    _SIZES,
)

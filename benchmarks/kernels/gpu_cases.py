# SPDX-License-Identifier: Apache-2.0
"""What the benchmark of the kernels measures: operations on the shapes of VGG-19, and the least that each can take."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

SIZES = (2048, 1024, 512, 256)
# Channels, and how many times smaller than the picture.
GRAM_LAYERS = (
    (64, 1),
    (128, 2),
    (256, 4),
    (512, 8),
)
STYLE_LAYERS = (*GRAM_LAYERS, (512, 16))
PRECISIONS = ("bf16", "tf32", "fp32")  # tf32 and fp32 are float32 tensors, multiplied as TF32 or as float32.
KINDS = ("l1", "l2", "isotropic")
ELEMENT_BYTES = {"bf16": 2, "tf32": 4, "fp32": 4}
_TILE = 64  # The lower triangle is computed in squares of this size at the finest.


@dataclass(frozen=True)
class Case:
    """One operation on one shape.

    Args:
        operation: ``gram``, ``style`` (five layers, with gradient) or ``variation``.
        precision: One of `PRECISIONS`; of the variation, only what the pictures are.
        pictures: N.
        size: Height and width of the picture; features are smaller, as in VGG-19.
        channels: Of the features; 0 for ``style``, 3 for ``variation``.
        kind: Of the variation.
        gradient: Whether the gradient is computed too.
    """

    operation: str
    precision: str
    pictures: int
    size: int
    channels: int = 0
    kind: str = ""
    gradient: bool = False

    @property
    def label(self) -> str:
        what = {
            "gram": f"Gram {self.channels} channels",
            "style": "style loss",
            "variation": f"variation {self.kind}",
        }
        also = " + gradient" if self.gradient else ""
        return f"{what[self.operation]}{also}, {self.precision}, {self.pictures} x {self.size}^2"

    @property
    def layers(self) -> tuple[tuple[int, int], ...]:
        """Of a Gram matrix or style loss: channels and places of each layer."""
        layers = STYLE_LAYERS if self.operation == "style" else GRAM_LAYERS
        return tuple(
            (c, (self.size // s) ** 2) for c, s in layers if self.operation == "style" or c == self.channels
        )

    @property
    def least_bytes(self) -> int:
        """What must go through memory: inputs once for each sweep that needs all of them, outputs once."""
        each = ELEMENT_BYTES[self.precision]
        if self.operation == "variation":
            return self.pictures * 3 * self.size**2 * each * (2 if self.gradient else 1)
        sweeps = 3 if self.operation == "style" else 1  # Gram, then the gradient reads again and writes.
        return self.pictures * sum(sweeps * c * k * each + 4 * c * c for c, k in self.layers)

    @property
    def least_flops(self) -> int:
        """Of the multiplications that tensor cores do; float32 as three of TF32."""
        if self.operation == "variation":
            return 0
        flops = 0
        for c, k in self.layers:
            tiles = -(-c // _TILE)
            flops += tiles * (tiles + 1) // 2 * _TILE**2 * 2 * k
            flops += 2 * c * c * k if self.operation == "style" else 0
        return self.pictures * flops * (3 if self.precision == "fp32" else 1)

    @property
    def input_bytes(self) -> int:
        """What the inputs take, to see whether a case fits on a GPU."""
        each = ELEMENT_BYTES[self.precision]
        if self.operation == "variation":
            return self.pictures * 3 * self.size**2 * each
        return self.pictures * sum(c * k * each for c, k in self.layers)

    def floor_us(self, peaks: dict[str, float]) -> float:
        """The least time, from what the GPU at hand reaches: `copy_bytes_per_s`, `bf16_flops_per_s`, `tf32_...`."""
        matrix = peaks["bf16_flops_per_s" if self.precision == "bf16" else "tf32_flops_per_s"]
        return 1e6 * max(self.least_bytes / peaks["copy_bytes_per_s"], self.least_flops / matrix)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def plan(suite: str) -> list[Case]:
    """The cases of ``quick`` or ``full``, those that goals are about and that say most first.

    Args:
        suite: ``quick`` has two sizes, one or eight pictures; ``full`` all four sizes and 1, 2, 4 or 8 pictures.
    """
    sizes = SIZES[:2] if suite == "quick" else SIZES
    many = (8,) if suite == "quick" else (2, 4, 8)
    cases = [
        Case("variation", precision, 1, size, 3, "l1", gradient)
        for size, precision, gradient in product(sizes, ("fp32", "bf16"), (False, True))
    ]
    cases += [Case("gram", p, 1, size, c) for size, p, (c, _) in product(sizes, PRECISIONS, GRAM_LAYERS)]
    cases += [Case("style", p, 1, size, gradient=True) for size, p in product(sizes, PRECISIONS)]
    cases += [
        Case("gram", p, n, size, c)
        for n, size, p, (c, _) in product(many, sizes[1:], PRECISIONS[:2], GRAM_LAYERS)
    ]
    kinds = KINDS[1:] if suite == "full" else KINDS[2:]
    cases += [
        Case("variation", p, 1, 2048, 3, kind, gradient)
        for kind, p, gradient in product(kinds, ("fp32", "bf16"), (False, True))
    ]
    if suite == "full":
        cases += [Case("style", p, 4, size, gradient=True) for size, p in product(sizes[1:], PRECISIONS[:2])]
        cases += [
            Case("variation", p, 8, size, 3, "l1", True) for size, p in product(sizes[:2], ("fp32", "bf16"))
        ]
        cases += [Case("gram", "bf16", 8, 2048, c) for c, _ in GRAM_LAYERS]
    return cases

# SPDX-License-Identifier: Apache-2.0
"""Networks of filters of single channels, as exporters see ``upfirdn2d``."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export_graphs import make_graph, picture
from norm_graphs import Draft


class Filter(Draft):
    """``upfirdn2d`` as exporters see it.

    Args:
        pictures: How many.
        channels: Of each.
        sides: Height and width.
        form: ``pictures`` for channels that are pictures, as in the public PyTorch ports; ``groups`` for a group for
            each, as in NVIDIA's reference.
    """

    def __init__(self, pictures: int, channels: int, sides: tuple[int, int], form: str) -> None:
        super().__init__(channels, 0)
        self.pictures, self.sides, self.form = pictures, sides, form

    def shaped(self, value: str, *sizes: int) -> str:
        return self.add("Reshape", value, self.weight(np.array(sizes)))

    def enlarge(self, value: str, by: tuple[int, int], zeros: tuple[int, int] | None = None) -> str:
        """Put zeros between pixels: `zeros` behind each row and column, where these are not what `by` wants."""
        height, width = self.sides
        rows, columns = zeros or (by[0] - 1, by[1] - 1)
        front = [self.pictures, self.channels] if self.form == "groups" else [self.pictures * self.channels]
        value = self.shaped(value, *front, height, 1, width, 1)
        amounts = [0] * (2 * (len(front) + 4))
        amounts[-3], amounts[-1] = rows, columns
        value = self.add("Pad", value, self.weight(np.array(amounts)))
        self.sides = (height * by[0], width * by[1])
        return self.shaped(value, self.pictures, self.channels, *self.sides)

    def pad(self, value: str, pads: tuple[int, ...], mode: str = "constant", fill: float = 0) -> str:
        amounts = self.weight(np.array([0, 0, *pads[:2], 0, 0, *pads[2:]]))
        more = [self.weight(np.array(fill, np.float32))] if mode == "constant" else []
        self.sides = (self.sides[0] + pads[0] + pads[2], self.sides[1] + pads[1] + pads[3])
        return self.add("Pad", value, amounts, *more, mode=mode)

    def filter(
        self, value: str, kernel: tuple[int, int], *, bias: bool = False, **how: list[int]
    ) -> ir.Model:
        """The network that ends with one filter for all channels, which is not symmetric."""
        one = self.normal(1, 1, *kernel)
        pads = how.get("pads", [0] * 4)
        height = self.sides[0] + pads[0] + pads[2] - kernel[0] + 1
        width = self.sides[1] + pads[1] + pads[3] - kernel[1] + 1
        if self.form == "groups":
            self.weights[one] = np.repeat(self.weights[one], self.channels, 0)
            more = [self.normal(self.channels)] if bias else []
            value = self.add("Conv", value, one, *more, group=self.channels, **how)
        else:
            value = self.shaped(value, self.pictures * self.channels, 1, *self.sides)
            value = self.add("Conv", value, one, *([self.normal(1)] if bias else []), **how)
            value = self.shaped(value, self.pictures, self.channels, height, width)
        self.add("Identity", value)
        self.nodes[-1].output[0] = "y"
        return make_graph(self.nodes, self.weights, self.channels, self.channels, (5, 6), self.pictures)

    def features(self) -> np.ndarray:
        return picture(self.pictures, self.channels, 5, 6)

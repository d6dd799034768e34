# SPDX-License-Identifier: Apache-2.0
"""The description of one tensor that enters or leaves a network."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gantk.errors import GantkError

DTYPES = ("float32", "float16", "bfloat16", "float64", "uint8", "int8", "int32", "int64", "bool")
LAYOUTS = ("NC", "NCHW", "NHWC")

NAME_LIMIT = 200
SIZE_LIMIT = 2**31 - 1

_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Args:
        name: The name of the tensor in the graph.
        dtype: One of `DTYPES`.
        shape: A positive size, or a symbol such as ``"N"``, for each axis.
        range: The smallest and largest meaningful value, for pictures and latents that have one.
        layout: One of `LAYOUTS`, or `None` for a tensor that is not a picture.
        smallest: The least height and width of a picture whose size is free; 1 where any will do.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    range: tuple[float, float] | None = None
    layout: str | None = None
    smallest: int = 1

    def __post_init__(self) -> None:
        # Other exporters write names such as `495` and `serving_default_x:0`.
        if not self.name.isprintable() or not 1 <= len(self.name) <= NAME_LIMIT:
            raise GantkError(
                f"{self.name[:NAME_LIMIT]!r} is not a tensor name: 1 to {NAME_LIMIT} printable characters"
            )
        if self.dtype not in DTYPES:
            raise GantkError(f"tensor {self.name!r} has dtype {self.dtype!r}; known are {', '.join(DTYPES)}")
        for size in self.shape:
            good = _SYMBOL.fullmatch(size) if isinstance(size, str) else 0 <= size <= SIZE_LIMIT
            if not good or isinstance(size, bool):
                raise GantkError(f"tensor {self.name!r} has a size {size!r}; a count or a symbol is wanted")
        if self.layout is not None and (self.layout not in LAYOUTS or len(self.layout) != len(self.shape)):
            raise GantkError(
                f"tensor {self.name!r} has layout {self.layout!r} and {len(self.shape)} axes; "
                f"known are {', '.join(LAYOUTS)}, a letter an axis"
            )
        if self.range is not None and not -math.inf < self.range[0] < self.range[1] < math.inf:
            raise GantkError(
                f"tensor {self.name!r} has range {self.range}; wanted: two finite numbers, smaller first"
            )
        if isinstance(self.smallest, bool) or not 1 <= self.smallest <= SIZE_LIMIT:
            raise GantkError(
                f"the smallest height of tensor {self.name!r} is {self.smallest!r}; at least 1 is wanted"
            )
        if self.smallest > 1 and self.picture_axes is None:
            raise GantkError(f"tensor {self.name!r} has a smallest height and is no picture")

    @property
    def is_dynamic(self) -> bool:
        return any(isinstance(size, str) for size in self.shape)

    @property
    def picture_axes(self) -> tuple[int, int] | None:
        """Where a picture has its height and its width; `None` for any other tensor."""
        if self.layout in ("NCHW", "NHWC"):
            return self.layout.index("H"), self.layout.index("W")
        return None

    def as_pixels(self) -> TensorSpec:
        """A picture as pixels, uint8 NHWC in [0, 255]; any other tensor as it is."""
        if self.layout != "NCHW":
            return self
        count, channels, height, width = self.shape
        shape = (count, height, width, channels)
        return TensorSpec(self.name, "uint8", shape, (0.0, 255.0), "NHWC", self.smallest)

    def concrete(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with its symbols replaced from `sizes`; a symbol that is not there becomes 1."""
        return tuple(sizes.get(size, 1) if isinstance(size, str) else size for size in self.shape)

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{' x '.join(str(size) for size in self.shape)}]"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "range": None if self.range is None else list(self.range),
            "layout": self.layout,
            "smallest": self.smallest,
        }

    @classmethod
    def from_json(cls, data: Any) -> TensorSpec:
        """Read what `to_json` wrote.

        Raises:
            GantkError: A field is missing, of the wrong type, or has a value that is not allowed.
        """
        if not isinstance(data, dict):
            raise GantkError(f"a tensor is described by an object, not by {type(data).__name__}")
        name, dtype, shape = data.get("name"), data.get("dtype"), data.get("shape")
        limits, layout, smallest = data.get("range"), data.get("layout"), data.get("smallest", 1)
        if not isinstance(name, str) or not isinstance(dtype, str) or not isinstance(shape, list):
            raise GantkError("a tensor wants a name, a dtype and a shape")
        if any(len(text) > NAME_LIMIT for text in (name, dtype, layout, *shape) if isinstance(text, str)):
            raise GantkError(f"a tensor's name, dtype, layout or size has more than {NAME_LIMIT} characters")
        if not all(isinstance(size, int | str) for size in shape) or len(shape) > 16:
            raise GantkError(
                f"tensor {name!r} has a shape {str(shape)[:100]!r}; up to 16 counts or symbols are wanted"
            )
        if limits is not None and not (
            isinstance(limits, list) and len(limits) == 2 and all(isinstance(v, int | float) for v in limits)
        ):
            raise GantkError(f"tensor {name!r} has a range {str(limits)[:100]!r}; two numbers are wanted")
        if layout is not None and not isinstance(layout, str):
            raise GantkError(
                f"tensor {name!r} has a layout {layout!r}; one of {', '.join(LAYOUTS)} is wanted"
            )
        if not isinstance(smallest, int):
            raise GantkError(
                f"tensor {name!r} has a smallest size {str(smallest)[:100]!r}; a count is wanted"
            )
        try:
            span = None if limits is None else (float(limits[0]), float(limits[1]))
        except OverflowError:
            raise GantkError(f"tensor {name!r} has a range beyond every float") from None
        return cls(
            name=name,
            dtype=dtype,
            shape=tuple(shape),
            range=span,
            layout=layout,
            smallest=smallest,
        )

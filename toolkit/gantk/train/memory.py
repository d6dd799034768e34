# SPDX-License-Identifier: Apache-2.0
"""A memory that is full, in words: it is no bug, and less of something fits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gantk.errors import GantkError


@contextmanager
def named_exhaustion(hint: str) -> Iterator[None]:
    """Turn what PyTorch and numpy raise where a GPU or the machine has no memory left into a `GantkError`.

    Args:
        hint: What takes less.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        # The first sentences say how much was asked for and had; others are on PyTorch's allocator.
        sentences = str(error).split(". ")
        raise GantkError(f"the GPU's memory is full: {'. '.join(sentences[:3])}", hint=hint) from error
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "can't allocate memory" not in str(error):
            raise
        asked = str(error).rpartition("can't allocate memory: ")[2]
        raise GantkError(f"the memory is full: {asked or 'nothing more can be had'}", hint=hint) from error

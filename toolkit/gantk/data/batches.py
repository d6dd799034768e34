# SPDX-License-Identifier: Apache-2.0
"""Batches in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Batch(NamedTuple):
    """Some of the pictures.

    Args:
        pictures: uint8[batch, channels, size, size], or of the size of a crop, on the CPU; `normalise` makes it what
            networks take.
        places: int64[batch], where they are among all.
    """

    pictures: Tensor
    places: Tensor


class Batches:
    """Gathers batches from decoded pictures, one ahead in a thread. The last incomplete batch is left out.

    Args:
        array: uint8[N, channels, size, size].
        batch: Pictures in a batch.
        seed: Of the order.
        flip: Whether to mirror each picture with a chance of one half.
        crop: The height and width of a random part to take of each picture; all of it by default.
        per_epoch: Batches in an epoch; as many as the array gives by default.
        pin: Whether to put batches where a GPU copies from without waiting.
    """

    def __init__(
        self,
        array: NDArray[np.uint8],
        batch: int,
        *,
        seed: int,
        flip: bool = False,
        crop: int | None = None,
        per_epoch: int | None = None,
        pin: bool = False,
    ) -> None:
        self._array = array
        self._batch = batch
        self._seed = seed
        self._flip = flip
        self._crop = crop
        self._pin = pin
        self._epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, np.int64)
        self._flipped: NDArray[np.bool_] = np.empty(0, np.bool_)
        self._corners: NDArray[np.int64] = np.empty((0, 2), np.int64)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[int, Future[Batch]] | None = None
        self.per_epoch = per_epoch or len(array) // batch

    def get(self, step: int) -> Batch:
        """The batch of a step of the whole training."""
        if self._next is not None and self._next[0] == step:
            batch = self._next[1].result()
        else:
            batch = self._pool.submit(self._gather, step).result()
        self._next = (step + 1, self._pool.submit(self._gather, step + 1))
        return batch

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _gather(self, step: int) -> Batch:
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng([self._seed, epoch])
            self._order = rng.permutation(len(self._array))
            self._flipped = rng.random(len(self._array)) < 0.5
            if self._crop is not None:
                room = self._array.shape[2] - self._crop
                self._corners = rng.integers(0, room + 1, (len(self._array), 2))
            self._epoch = epoch
        chosen = slice(index * self._batch, (index + 1) * self._batch)
        places = self._order[chosen]
        pictures = self._array[places] if self._crop is None else self._cropped(chosen, self._crop)
        if self._flip:
            flipped = self._flipped[chosen]
            pictures[flipped] = pictures[flipped, :, :, ::-1]
        batch = Batch(torch.from_numpy(pictures), torch.from_numpy(places))
        return Batch(*(tensor.pin_memory() for tensor in batch)) if self._pin else batch

    def _cropped(self, chosen: slice, size: int) -> NDArray[np.uint8]:
        return crops(self._array, self._order[chosen], self._corners[chosen], size)


def crops(
    array: NDArray[np.uint8], chosen: NDArray[np.int64], corners: NDArray[np.int64], size: int
) -> NDArray[np.uint8]:
    """Square parts of some pictures, copied.

    Args:
        array: uint8[N, channels, height, width].
        chosen: [K], the pictures to take.
        corners: [K, 2], the top and left of each part.
        size: Their height and width.
    """
    pairs = zip(chosen, corners, strict=True)
    return np.stack([array[n, :, top : top + size, left : left + size] for n, (top, left) in pairs])


def normalise(pictures: Tensor, device: torch.device) -> Tensor:
    """uint8 pictures to float32 in [-1, 1] on a device, with channels last in memory, as convolutions like it."""
    return _floats(pictures, device).mul_(1 / 127.5).sub_(1.0)


def normalise_unit(pictures: Tensor, device: torch.device) -> Tensor:
    """As `normalise`, to [0, 1]."""
    return _floats(pictures, device).mul_(1 / 255)


def _floats(pictures: Tensor, device: torch.device) -> Tensor:
    moved = pictures.to(device, non_blocking=True)
    return moved.to(torch.float32, memory_format=torch.channels_last)

# SPDX-License-Identifier: Apache-2.0
"""The flicker of a stylised video, damped where the picture stands still."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from gantk.runtime.pictures import Pixels
from gantk.runtime.runner import Array

STILL_LEVELS = 6.0
"""A pixel that changes by so much, of 255, is damped by a factor of e less than one that stays."""

DAMPING_LIMIT = 0.95
"""The largest share of the frame before: what stands still may still follow slow changes."""


class Damper:
    """Blends a frame with the one before where the content did not change.

    An exponential average over time whose memory fades with the change of the content, so that what moves leaves
    no trail: the share of the frame before is ``amount * exp(-change / STILL_LEVELS)``.

    Args:
        amount: From 0, off, to 1.
    """

    def __init__(self, amount: float) -> None:
        self._share = min(amount, DAMPING_LIMIT)
        self._content: Pixels | None = None
        self._damped: Array | None = None

    def damp(self, painted: Pixels, content: Pixels) -> Pixels:
        """The next frame, uint8[H, W, 3], damped, given the content frame it was painted from."""
        if not self._share:
            return painted
        wanted = painted.astype(np.float32)
        if self._content is not None and self._damped is not None and self._content.shape == content.shape:
            wanted += self._still(content)[:, :, None] * (self._damped - wanted)
        self._content, self._damped = content, wanted
        return np.rint(wanted).astype(np.uint8)

    def _still(self, content: Pixels) -> Array:
        """The share of the frame before for each pixel, float32[H, W]."""
        assert self._content is not None
        change = np.abs(content.astype(np.int16) - self._content).max(axis=2).astype(np.uint8)
        # Over its neighbours too: noise is not movement, and a moving edge reaches a little beyond itself.
        smooth = np.asarray(Image.fromarray(change).filter(ImageFilter.BoxBlur(2)), np.float32)
        share: Array = np.float32(self._share) * np.exp(-smooth / np.float32(STILL_LEVELS))
        return share

# SPDX-License-Identifier: Apache-2.0
"""Pictures for tests of stylising."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from gantk.runtime.pictures import Pixels


def scene(height: int, width: int, seed: int = 0) -> Pixels:
    """Soft blobs of colour, brighter to the right, so that no part looks like another."""
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
    soft = np.asarray(noise.filter(ImageFilter.GaussianBlur(2)), np.float32)
    ramp = np.linspace(-60, 60, width, dtype=np.float32)[None, :, None]
    return ((soft - 128) * 4 + 128 + ramp).clip(0, 255).astype(np.uint8)

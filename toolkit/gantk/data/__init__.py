# SPDX-License-Identifier: Apache-2.0
"""Pictures on disk to one uint8 array: decoded once, so that training only gathers."""

from gantk.data.batches import Batches
from gantk.data.pictures import Pictures, Source, find_source, load

__all__ = ["Batches", "Pictures", "Source", "find_source", "load"]

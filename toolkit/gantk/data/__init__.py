# SPDX-License-Identifier: Apache-2.0
"""Pictures on disk to one uint8 array: decoded once, so that training only gathers."""

from gantk.data.batches import Batch, Batches
from gantk.data.labels import find_classes, read_labels
from gantk.data.pictures import Pictures, Source, find_source, load

__all__ = ["Batch", "Batches", "Pictures", "Source", "find_classes", "find_source", "load", "read_labels"]

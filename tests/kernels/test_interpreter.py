# SPDX-License-Identifier: Apache-2.0
"""The interpreter gives what numpy gives, for snippets of all that the kernels are made of."""

from __future__ import annotations

import numpy as np
import pytest
import snippets_basic
import snippets_hopper
from judged import TRIALS
from snippets import Snippet, interpret

pytestmark = TRIALS

SNIPPETS = [*snippets_basic.SNIPPETS, *snippets_hopper.SNIPPETS]


@pytest.mark.parametrize("snippet", SNIPPETS, ids=[s.name for s in SNIPPETS])
def test_a_snippet_gives_what_numpy_gives(snippet: Snippet) -> None:
    for found, expected in zip(interpret(snippet), snippet.expected, strict=True):
        np.testing.assert_array_equal(found, expected.reshape(found.shape))


def test_blocks_side_by_side_give_what_they_give_alone() -> None:
    snippet = next(s for s in SNIPPETS if s.name == "last_block")
    for blocks in (1, 3, 5):
        for found, expected in zip(interpret(snippet, blocks=blocks), snippet.expected, strict=True):
            np.testing.assert_array_equal(found, expected)

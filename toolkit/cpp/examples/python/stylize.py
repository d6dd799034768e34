# SPDX-License-Identifier: Apache-2.0
"""A picture in, a picture out, by a feed-forward style network that takes pixels."""

from __future__ import annotations

import sys

import gantk
from gantk.runtime.pictures import load, save


def main(bundle: str, picture: str, out: str) -> None:
    with gantk.open(bundle) as runner:
        outputs = runner.run({"picture": load(picture)})
    save(out, outputs["stylized"][0])


if __name__ == "__main__":
    main(*sys.argv[1:4])

# SPDX-License-Identifier: Apache-2.0
"""What the demo did, as one page that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from gantk.bench.page import body, line, page, table
from gantk.bundle import Bundle, Engine, Parity, readable
from gantk.files import read_bytes, write_text
from gantk.train.sitting import TrainResult

STAGES = 6
"""How many of the training's sample grids are shown."""

_STYLE = """
.row { display: flex; flex-wrap: wrap; gap: 1.2rem } figure { margin: 0 } figcaption { font-size: .85rem; opacity: .75 }
.pixels { image-rendering: pixelated; width: 25.7rem; max-width: 100%; border-radius: 6px }
.walk .pixels { width: 52.6rem }
.stages .pixels { width: 10.5rem } .curves img { max-width: 100%; background: #fff; border-radius: 6px }
.files td:first-child { white-space: normal; overflow-wrap: anywhere } .files td:last-child { white-space: normal }
code { font-size: .95em }
pre { padding: .8rem 1rem; border: 1px solid var(--line); border-radius: 6px; overflow-x: auto }
"""


def write_report(
    out: Path, training: TrainResult, bundle: Bundle, benchmark: dict[str, Any], seconds: Mapping[str, float]
) -> None:
    """Write ``report.html`` into a demo's folder.

    Args:
        out: With ``real.png``, ``generated.png``, ``walk.webp`` and the run.
        training: How the training went.
        bundle: What was exported.
        benchmark: The JSON document of the benchmark.
        seconds: How long each step took, by name.
    """
    parts = [
        "<h1>gantk demo: from pictures to a verified engine</h1>",
        f'<p class="muted">{_spent(seconds)}</p>',
        "<h2>Pictures in, pictures out</h2>",
        '<div class="row">',
        _figure(out / "real.png", "What gantk drew: the training set", "pixels"),
        _figure(out / "generated.png", "What the exported network makes of noise", "pixels"),
        "</div>",
        '<div class="walk">',
        _figure(out / "walk.webp", "A walk through its latent space", "pixels"),
        "</div>",
        f"<h2>Training: {training.step} steps, {training.samples_per_second:.0f} pictures a second</h2>",
        *(f"<p>warning: {escape(warning)}</p>" for warning in training.warnings),
        '<div class="row stages">',
        *(
            _figure(path, path.stem.replace("-000", " ").replace("-00", " "), "pixels")
            for path in _stages(training.run)
        ),
        "</div>",
        '<div class="curves">',
        _figure(
            training.run / "losses.png", "Both losses oscillate rather than fall: neither network is to win"
        ),
        _figure(
            training.run / "health.png",
            "Diversity of samples against that of real pictures, and the discriminator",
        ),
        "</div>",
        "<h2>Parity: what each file computes, against PyTorch</h2>",
        _parity_table(bundle),
        "<h2>Benchmark</h2>",
        body(benchmark),
        "<h2>Next</h2>",
        _next(out),
    ]
    write_text(out / "report.html", page("gantk demo", "\n".join(parts), extra_style=_STYLE))


def _spent(seconds: Mapping[str, float]) -> str:
    steps = ", ".join(f"{escape(name)} {spent:.0f} s" for name, spent in seconds.items())
    return f"{steps}: {sum(seconds.values()):.0f} s in all"


def _stages(run: Path) -> list[Path]:
    """A few of the sample grids, from the first to the last."""
    grids = sorted((run / "samples").glob("*.png"))
    if len(grids) <= STAGES:
        return grids
    # Much changes early and little late: the steps between those shown grow.
    chosen = sorted({round((len(grids) - 1) * (index / (STAGES - 1)) ** 2) for index in range(STAGES)})
    return [grids[index] for index in chosen]


def _figure(path: Path, caption: str, kind: str = "") -> str:
    data = base64.b64encode(read_bytes(path)).decode()
    media = "webp" if path.suffix == ".webp" else "png"
    return (
        f'<figure><img class="{kind}" alt="{escape(caption)}" src="data:image/{media};base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _parity_table(bundle: Bundle) -> str:
    rows = [
        _parity_row(variant.file.path, variant.file.size_bytes, parity)
        for variant in bundle.manifest.variants
        for parity in variant.parity
    ]
    rows += [_engine_row(engine) for engine in bundle.manifest.engines]
    heads = ("file", "MiB", "ran on", "computed in", "against", "PSNR dB", "largest difference", "verdict")
    return f'<div class="files">{table([line(heads, "th"), *rows])}</div>'


def _engine_row(engine: Engine) -> str:
    state = (
        "verified" if engine.verified else "unverified: it runs on an RTX card, and is checked there first"
    )
    cells = (
        engine.file.path,
        f"{engine.file.size_bytes / 2**20:.1f}",
        f"{engine.backend} {engine.version}",
        engine.precision,
        *("-",) * 3,
        state,
    )
    return line(cells, "td")


def _parity_row(file: str, size_bytes: int, parity: Parity) -> str:
    cells = (
        file,
        f"{size_bytes / 2**20:.1f}",
        f"{parity.backend} {parity.version}",
        parity.executed,
        parity.reference,
        "-" if parity.psnr_db is None else f"{parity.psnr_db:.1f}",
        readable(parity.max_abs),
        "ok" if parity.passed else f"refused: {parity.reason}",
    )
    return line(cells, "td")


def _next(out: Path) -> str:
    commands = (
        "gantk train dcgan --data DIR --out runs/mine      # your own pictures",
        "gantk export runs/mine -o mine.gantk",
        "gantk bench mine.gantk --precision fp16",
        f"gantk generate {out}/flowers.gantk -n 64 -o flowers.png",
    )
    python = (
        "import gantk, numpy",
        f'with gantk.open("{out}/flowers.gantk") as runner:',
        '    pictures = runner.run({"latent": numpy.random.randn(4, 100).astype("float32")})["picture"]',
    )
    return f"<pre>{escape(chr(10).join(commands))}</pre><pre>{escape(chr(10).join(python))}</pre>"

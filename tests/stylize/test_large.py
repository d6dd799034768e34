# SPDX-License-Identifier: Apache-2.0
"""In strips a picture becomes what the network makes of it whole."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import networks
import style_networks
from gantk.errors import GantkError
from gantk.runtime.model import from_bytes
from gantk.runtime.registry import open_model
from gantk.stylize import large
from gantk.stylize.large import LargePainter, psnr_db, strips
from gantk.stylize.network import Look, StyleNetwork, choose_look, open_network
from gantk.stylize.stages import plan_stages
from gantk.stylize.statistics import MEASURED, STATISTICS, Pool, add_measured, give_statistics
from style_pictures import scene

SAME_DB = 60.0


@given(
    st.integers(1, 3000),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(-50, 4000),
)
def test_strips_cover_every_row_once_and_stay_inside(
    height: int, stride: int, above: int, below: int, rows: int
) -> None:
    cut = strips(height, stride, above * stride, below * stride, rows)
    assert cut[0].first == 0
    assert height <= cut[-1].end < height + stride
    assert all(one.end == two.first for one, two in pairwise(cut))
    for strip in cut:
        assert strip.first < strip.end
        assert strip.first % stride == 0
        assert strip.end - strip.first <= max(stride, rows)
        assert strip.begin == max(0, strip.first - above * stride)
        assert strip.until == min(height, strip.end + below * stride)


@settings(max_examples=12)
@given(st.integers(1, 90), st.integers(1, 70), st.integers(1, 60))
def test_strips_make_what_the_whole_network_makes(
    network_file: Path, height: int, width: int, rows: int
) -> None:
    with open_network(network_file, "onnxruntime", threads=1) as network:
        picture = scene(height, width, seed=height)
        whole = network.paint(picture[None], Look())[0]
        parts = LargePainter(network).paint(picture, Look(), rows=rows)
    assert parts.pixels.shape == picture.shape
    assert psnr_db(whole, parts.pixels) >= SAME_DB
    assert np.isfinite(parts.statistics).all()


@pytest.fixture(scope="session")
def network_file(one_style: Path) -> Path:
    return one_style


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_blended_styles_and_floats(tmp_path: Path, backend: str) -> None:
    path = tmp_path / "floats.onnx"
    path.write_bytes(style_networks.style_network(3, pixels=False))
    with open_network(path, backend, threads=1) as network:
        look = choose_look(network, weights="waves=1,mosaic=3")
        picture = scene(101, 67)
        whole = network.paint(picture[None], look)[0]
        assert psnr_db(whole, LargePainter(network).paint(picture, look, rows=24).pixels) >= SAME_DB
        other = LargePainter(network).paint(picture, choose_look(network, "candy"), rows=24).pixels
        assert psnr_db(whole, other) < 40


@settings(max_examples=6)
@given(st.integers(2, 90), st.integers(2, 60), st.integers(1, 40))
def test_a_style_picture_in_strips(tmp_path: Path, height: int, width: int, rows: int) -> None:
    path = tmp_path / "adain.onnx"
    path.write_bytes(style_networks.adain_encoder_network())
    with open_network(path, "onnxruntime", threads=1) as network:
        look = Look(picture=scene(30, 41, seed=9), alpha=0.8)
        picture = scene(height, width)
        painter = LargePainter(network)
        assert painter.plan.prelude is not None
        assert all("style" not in stage.sources for stage in painter.plan.stages)
        whole = network.paint(picture[None], look)[0]
        assert psnr_db(whole, painter.paint(picture, look, rows=rows).pixels) >= SAME_DB
        other = network.paint(picture[None], Look(picture=255 - scene(30, 41, seed=9)))[0]
        assert psnr_db(whole, other) < 40


def test_under_the_same_statistics_strips_are_the_untiled_network(
    one_style: Path, network: StyleNetwork
) -> None:
    picture = scene(203, 150)
    parts = LargePainter(network).paint(picture, Look(), rows=32)
    data = _with_statistics((one_style / "model.fp32.onnx").read_bytes())
    feeds = {"picture": picture[None], STATISTICS: parts.statistics[None].astype(np.float32)}
    with open_model(from_bytes(data), "onnxruntime", threads=1) as runner:
        untiled = runner.run(feeds)
    assert psnr_db(untiled["stylized"][0], parts.pixels) >= SAME_DB
    # What the strips measured is what that network measures of the whole picture.
    np.testing.assert_allclose(untiled[MEASURED][0], parts.statistics, rtol=1e-3, atol=1e-4)


def test_no_step_at_the_borders_of_strips(network: StyleNetwork) -> None:
    picture = scene(1024, 96)
    painted = LargePainter(network).paint(picture, Look(), rows=32).pixels.astype(np.float64)
    steps = np.abs(np.diff(painted, axis=0)).mean(axis=(1, 2))
    borders = np.arange(31, 1023, 32)
    ratio = steps[borders].mean() / np.delete(steps, borders).mean()
    whole = np.abs(np.diff(network.paint(picture[None], Look())[0].astype(np.float64), axis=0)).mean(
        axis=(1, 2)
    )
    own = whole[borders].mean() / np.delete(whole, borders).mean()  # The picture's own, by chance not 1.
    assert ratio / own <= 1.02


def test_statistics_of_a_part_are_far_off(network: StyleNetwork) -> None:
    """Were they not, this file would prove little."""
    picture = scene(160, 160)
    whole = network.paint(picture[None], Look())[0]
    half = network.paint(picture[None, :, :80], Look())[0]
    assert psnr_db(whole[:, :40], half[:, :40]) < 35


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 2**32))
def test_pooled_parts_have_the_statistics_of_the_whole(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(1000, 1 + index, (3, size)) for index, size in enumerate(sizes)]
    pool = Pool()
    for part in parts:
        pool.add(part.shape[1], part.mean(axis=1), part.var(axis=1))
    whole = np.concatenate(parts, axis=1)
    np.testing.assert_allclose(pool.statistics, [whole.mean(axis=1), whole.var(axis=1)], rtol=1e-9)


def test_the_distance_is_told(network: StyleNetwork) -> None:
    assert LargePainter(network).distance_db(scene(700, 900), Look()) >= SAME_DB


def test_progress_counts_to_the_end(network: StyleNetwork) -> None:
    told: list[tuple[int, int]] = []
    LargePainter(network).paint(scene(64, 64), Look(), lambda *both: told.append(both), rows=16)
    assert [done for done, _ in told] == list(range(1, told[-1][1] + 1))
    assert told[-1][1] > 8 * 3


def test_what_is_kept_lies_at_the_smallest_scale_and_is_dropped_in_time(one_style: Path) -> None:
    plan = plan_stages((one_style / "model.fp32.onnx").read_bytes(), "picture", "stylized")
    held: set[str] = set()
    for stage in plan.stages:
        assert set(stage.sources) <= held | {"picture"}
        assert set(stage.kept.values()) <= {4}
        held = (held | set(stage.kept)) - set(stage.dropped)
        assert len(held) <= 2
    assert held == set()
    assert [stage.norm is None for stage in plan.stages] == [False] * len(plan.norms) + [True]


def test_an_operator_over_the_whole_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "adain.onnx"
    path.write_bytes(style_networks.adain_network())
    with (
        open_network(path, "onnxruntime") as network,
        pytest.raises(GantkError, match="instance norm|strips"),
    ):
        LargePainter(network)


def test_a_mean_over_rows_is_refused_by_name() -> None:
    spec = style_networks.specs(pixels=False)[0][0]
    nodes = [
        helper.make_node("InstanceNormalization", ["picture", "scale", "bias"], ["normal"]),
        helper.make_node("GlobalAveragePool", ["normal"], ["mean"]),
        helper.make_node("Sub", ["normal", "mean"], ["stylized"], name="centre"),
    ]
    weights = [onnx.numpy_helper.from_array(np.ones(3, np.float32), name) for name in ("scale", "bias")]
    value = helper.make_tensor_value_info("picture", TensorProto.FLOAT, list(spec.shape))
    out = helper.make_tensor_value_info("stylized", TensorProto.FLOAT, list(spec.shape))
    data = networks.model_bytes(helper.make_graph(nodes, "g", [value], [out], weights))
    with pytest.raises(GantkError, match="GlobalAveragePool cannot be run in strips") as caught:
        plan_stages(data, "picture", "stylized")
    assert "--size" in str(caught.value)


def test_no_room_for_temporary_files_is_said_first(
    network: StyleNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large, "free_bytes", lambda path: 1000)
    with pytest.raises(GantkError, match="GiB are wanted for a temporary file") as caught:
        LargePainter(network).paint(scene(64, 64), Look(), rows=16)
    assert "TMPDIR" in str(caught.value)


def test_nothing_is_left_in_the_temporary_folder(network: StyleNetwork, tmp_path: Path) -> None:
    LargePainter(network, folder=tmp_path).paint(scene(64, 64), Look(), rows=16)
    assert list(tmp_path.iterdir()) == []


def test_memory_is_bounded(tmp_path: Path) -> None:
    """A picture that the process would take 360 MiB for, run whole."""
    bundle = style_networks.style_bundle(tmp_path / "wide.gantk", width=8, blocks=1).root
    code = (
        "import pathlib, numpy\n"
        "from gantk.stylize.network import Look, open_network\n"
        "from gantk.stylize.large import LargePainter\n"
        f"network = open_network({str(bundle)!r}, 'onnxruntime', threads=1)\n"
        "picture = numpy.random.default_rng(0).integers(0, 256, (1024, 1024, 3), numpy.uint8)\n"
        "painted = LargePainter(network, 2**26).paint(picture, Look()).pixels\n"
        "assert painted.std() > 5\n"
        # Not getrusage: a child begins with the peak of the process that it was forked from.
        "print(pathlib.Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 300 * 2**20


def _with_statistics(data: bytes) -> bytes:
    proto = onnx.load_from_string(data)
    add_measured(proto, give_statistics(proto))
    return proto.SerializeToString()

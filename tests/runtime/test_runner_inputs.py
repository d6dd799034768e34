# SPDX-License-Identifier: Apache-2.0
"""What a runner says to inputs that it cannot take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

import networks
from gantk.errors import GantkError
from gantk.runtime.runner import Array, Runner
from gantk.tensors import TensorSpec


class Doubler(Runner):
    """A backend in numpy: every output is twice the input `x`, with a value missing for each closed run."""

    def __init__(self, *inputs: TensorSpec) -> None:
        output = TensorSpec("y", inputs[0].dtype, inputs[0].shape)
        about = {
            "backend": "numpy",
            "version": "1",
            "device": "cpu",
            "precision": "fp32",
            "file_precision": "fp32",
        }
        super().__init__(inputs, (output,), **about)
        self.seen: dict[str, Array] = {}

    def _run(self, arrays: dict[str, Array], out: Mapping[str, Array]) -> dict[str, Array]:
        self.seen = arrays
        return self._delivered({"y": arrays["x"] + arrays["x"]}, out)

    def close(self) -> None:
        pass


X = TensorSpec("x", "float32", ("N", 4))
GOOD = networks.latents(2)


@pytest.fixture
def runner() -> Iterator[Doubler]:
    with Doubler(X) as opened:
        yield opened


def test_labels_outside_their_range_are_refused() -> None:
    label = TensorSpec("x", "int64", ("N",), (0.0, 9.0))
    with Doubler(label) as runner:
        assert runner.run({"x": np.array([0, 9])})["y"].tolist() == [0, 18]
        caught = error(runner, np.array([0, 10, -1, 2**62]))
        assert caught.what == "input 'x' has 3 of 4 values outside 0 to 9"
    with Doubler(
        TensorSpec("x", "float32", ("N",), (0.0, 1.0))
    ) as runner:  # Pictures may go a little beyond.
        assert runner.run({"x": np.array([2], np.float32)})["y"].tolist() == [4]


def error(runner: Runner, value: Any) -> GantkError:
    with pytest.raises(GantkError) as caught:
        runner.run({"x": value})
    return caught.value


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (GOOD.astype(np.float64), "dtype float64; the network wants float32"),
        (GOOD.astype(np.float16), "dtype float16"),
        (GOOD.astype(np.int64), "dtype int64"),
        (GOOD.astype(">f4"), "dtype >f4"),
        (GOOD.astype(object), "dtype object"),
        (GOOD.astype(np.complex64), "dtype complex64"),
        (np.array([["a", "b", "c", "d"]]), "dtype <U1"),
        (GOOD[0], r"shape \[4\]; the network wants \[N, 4\]"),
        (GOOD[None], r"shape \[1, 2, 4\]"),
        (GOOD[:, :3], r"shape \[2, 3\]"),
        (GOOD[:0], "each at least 1"),
        (np.float32(1), r"shape \[\]"),
        (np.full((2, 4), np.nan, np.float32), "8 of 8 values that are NaN or infinite"),
        (np.array([[0, 1, np.inf, 2]], np.float32), "1 of 4 values"),
        (np.array([[np.inf, -np.inf, 0, 0]], np.float32), "2 of 4 values"),
        ([[1.0, 2.0, 3.0, 4.0]], "is a list; an array is wanted"),
        (None, "is a NoneType"),
        ("z.npy", "is a str"),
    ],
)
def test_values_that_do_not_fit(runner: Doubler, value: Any, what: str) -> None:
    import re

    assert re.search(what, error(runner, value).what)
    assert runner.seen == {}


def test_after_a_call_that_fitted_nothing_else_is_taken(runner: Doubler) -> None:
    """Inputs like those of the call before are checked in a shorter way."""
    for _ in range(3):
        np.testing.assert_array_equal(runner.run({"x": GOOD})["y"], 2 * GOOD)
    for bad in (np.nan, np.inf, -np.inf):
        spoilt = GOOD.copy()
        spoilt[1, 2] = bad
        assert "1 of 8 values that are NaN or infinite" in error(runner, spoilt).what
    assert "dtype float64" in error(runner, GOOD.astype(np.float64)).what
    assert "dtype >f4" in error(runner, GOOD.astype(">f4")).what
    assert "shape" in error(runner, GOOD[:, :3]).what
    columns = np.asfortranarray(GOOD)
    np.testing.assert_array_equal(runner.run({"x": columns})["y"], 2 * GOOD)
    assert runner.seen["x"].flags.c_contiguous
    np.testing.assert_array_equal(runner.run({"x": GOOD[:1]})["y"], 2 * GOOD[:1])


def test_shapes_that_fitted_apart_need_not_fit_together() -> None:
    with Doubler(X, TensorSpec("z", "float32", ("N", 1))) as runner:
        for count in (2, 3):
            runner.run({"x": networks.latents(count), "z": np.zeros((count, 1), np.float32)})
        with pytest.raises(GantkError, match="shape"):
            runner.run({"x": networks.latents(3), "z": np.zeros((2, 1), np.float32)})
        runner.run({"x": networks.latents(3), "z": np.zeros((3, 1), np.float32)})


def test_few_values_and_many_are_looked_at(runner: Doubler) -> None:
    for count in (1, 64, 65, 5000):
        latents = np.ones((count, 4), np.float32)
        assert runner.run({"x": latents})["y"].shape == (count, 4)
        latents[-1, -1] = np.nan
        assert f"1 of {4 * count} values" in error(runner, latents).what


@pytest.mark.parametrize("feeds", [{}, {"z": GOOD}, {"x": GOOD, "z": GOOD}, {1: GOOD}, GOOD, [GOOD], None])
def test_names_that_do_not_fit(runner: Doubler, feeds: Any) -> None:
    with pytest.raises(GantkError, match=r"x: float32\[N x 4\]"):
        runner.run(feeds)


def test_large_finite_values_pass_without_a_warning(
    runner: Doubler, recwarn: pytest.WarningsRecorder
) -> None:
    values = np.full((2, 4), 1.5e38, np.float32)
    assert runner.run({"x": values})["y"][0, 0] == np.float32(3e38)
    half = Doubler(TensorSpec("x", "float16", ("N",)))
    half.run({"x": np.full(4, 30000, np.float16)})
    assert not recwarn.list


def test_contiguous_arrays_are_not_copied(runner: Doubler) -> None:
    runner.run({"x": GOOD})
    assert runner.seen["x"] is GOOD
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(GOOD.copy())
    runner.run({"x": tensor})
    assert runner.seen["x"].ctypes.data == tensor.data_ptr()


def test_a_mapped_file_is_taken(runner: Doubler, tmp_path: Any) -> None:
    np.save(tmp_path / "x.npy", GOOD)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.testing.assert_array_equal(runner.run({"x": mapped})["y"], 2 * GOOD)


def test_gpu_memory_is_refused(runner: Doubler) -> None:
    class OnGpu:
        __cuda_array_interface__: Mapping[str, Any] = {}

    assert "GPU memory" in error(runner, OnGpu()).what


def test_bfloat16_inputs() -> None:
    import ml_dtypes

    runner = Doubler(TensorSpec("x", "bfloat16", ("N",)))
    values = np.array([1.5, -2], ml_dtypes.bfloat16)
    np.testing.assert_array_equal(runner.run({"x": values})["y"].astype(np.float32), [3, -4])
    with pytest.raises(GantkError, match="1 of 2 values"):
        runner.run({"x": np.array([np.nan, 1], ml_dtypes.bfloat16)})


@pytest.mark.parametrize(
    ("out", "what"),
    [
        ({"z": GOOD}, "no output 'z'"),
        ({"y": GOOD.astype(np.float64)}, "numpy array of float32"),
        ({"y": [1.0]}, "numpy array of float32"),
        ({"y": np.zeros((2, 8), np.float32)[:, ::2]}, "contiguous"),
        ({"y": np.zeros((1, 4), np.float32)}, r"shape \[1, 4\]; the output has \[2, 4\]"),
        ({"y": np.zeros(8, np.float32)}, r"shape \[8\]"),
    ],
)
def test_outs_that_do_not_fit(runner: Doubler, out: Any, what: str) -> None:
    with pytest.raises(GantkError, match=what):
        runner.run({"x": GOOD}, out=out)


def test_a_read_only_out(runner: Doubler) -> None:
    out = np.zeros((2, 4), np.float32)
    out.flags.writeable = False
    with pytest.raises(GantkError, match="writeable"):
        runner.run({"x": GOOD}, out={"y": out})


@pytest.mark.parametrize(("layout", "shape"), [("NHWC", (1, 30, 7, 3)), ("NCHW", (1, 3, 7, 30))])
def test_a_picture_below_the_smallest_size_is_refused(layout: str, shape: tuple[int, ...]) -> None:
    sizes = tuple(3 if letter == "C" else letter for letter in layout)
    spec = TensorSpec("x", "uint8", sizes, (0.0, 255.0), layout, 8)
    with Doubler(spec) as small:
        caught = error(small, np.zeros(shape, np.uint8))
        assert "at least 8 x 8" in caught.what
        assert ("7 x 30" if layout == "NHWC" else "30 x 7") in caught.what
        enough = tuple(
            max(8, size) if letter in "HW" else size for letter, size in zip(layout, shape, strict=True)
        )
        assert small.run({"x": np.zeros(enough, np.uint8)})["y"].shape == enough

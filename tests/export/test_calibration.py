# SPDX-License-Identifier: Apache-2.0
"""What int8 and fp8 files are calibrated with: the user's pictures, each counted, and some held back to judge."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from gantk.bundle import Calibrated
from gantk.data.decode import decode
from gantk.errors import GantkError, UsageError
from gantk.export.calibration import Calibration, calibration_feeds
from gantk.tensors import TensorSpec

PICTURE = TensorSpec("picture", "uint8", ("N", "H", "W", 3), (0.0, 255.0), "NHWC")
STYLE = TensorSpec("style", "float32", ("N", 3, "HS", "WS"), (-1.0, 1.0), "NCHW")
LATENT = TensorSpec("latent", "float32", ("N", 4), None, "NC")


def test_pictures_become_inputs(folder: Path) -> None:
    weights = TensorSpec("weights", "float32", ("N", 2), (0.0, 1.0), "NC")
    feeds = calibration_feeds((PICTURE, STYLE, weights), Calibration(folder, 3)).calibrating
    assert len(feeds) == 3
    for feed in feeds:
        assert feed["picture"].shape == (1, 256, 256, 3)
        assert feed["picture"].dtype == np.uint8
        assert feed["style"].shape == (1, 3, 256, 256)
        assert -1 <= feed["style"].min() < -0.2 < 0.2 < feed["style"].max() <= 1
        np.testing.assert_allclose(feed["weights"].sum(), 1, rtol=1e-6)
    # The first of the folder, its middle square, enlarged: no noise, and no other picture.
    np.testing.assert_array_equal(feeds[0]["picture"][0].transpose(2, 0, 1), decode(folder / "0.png", 256, 3))
    assert not np.array_equal(feeds[0]["picture"], feeds[1]["picture"])


def test_a_network_without_pictures_needs_none() -> None:
    found = calibration_feeds((LATENT,), Calibration(count=5))
    assert [feed["latent"].shape for feed in found.calibrating] == [(1, 4)] * 5
    assert len({feed["latent"].tobytes() for feed in (*found.calibrating, *found.judging)}) == 8


@pytest.mark.parametrize(("count", "calibrating", "judging"), [(1, 1, 3), (3, 3, 3), (5, 5, 1), (32, 5, 1)])
def test_some_pictures_judge_and_do_not_calibrate(
    folder: Path, count: int, calibrating: int, judging: int
) -> None:
    found = calibration_feeds((PICTURE,), Calibration(folder, count))
    assert (len(found.calibrating), len(found.judging)) == (calibrating, judging)
    every = {feed["picture"].tobytes() for feed in (*found.calibrating, *found.judging)}
    assert len(every) == calibrating + judging


def test_too_few_pictures_do_both(folder: Path, tmp_path: Path) -> None:
    for name in ("0.png", "1.png", "2.png"):
        shutil.copy(folder / name, tmp_path)
    found = calibration_feeds((PICTURE,), Calibration(tmp_path))
    assert (len(found.calibrating), len(found.judging)) == (3, 0)
    assert found.told(32) == "calibrated with 3 pictures of 32 wanted, judged by the same"


def test_what_is_left_out_is_told(folder: Path) -> None:
    broken = (
        "`broken.jpg`: its content is not a picture of a known format (PNG, JPEG, WEBP, BMP, GIF, PPM, TIFF)"
    )
    found = calibration_feeds((PICTURE,), Calibration(folder))
    assert found.facts(Calibration(folder)) == Calibrated("minmax", 32, 5, 1, 1)
    assert found.told(32) == (
        f"calibrated with 5 pictures of 32 wanted, judged by 1 other; 1 file could not be read, {broken}"
    )
    told = calibration_feeds((PICTURE, STYLE), Calibration(folder, 2)).told(2)
    assert told == f"calibrated with 2 pairs, judged by 1 other; 1 file could not be read, {broken}"
    told = calibration_feeds((LATENT,), Calibration(folder, 4)).told(4)
    assert told == (
        "calibrated with 4 random inputs, judged by 3 others; "
        f"`{folder}` is not used, for the network takes no pictures"
    )


def test_what_cannot_be_calibrated() -> None:
    with pytest.raises(UsageError, match="int8 wants pictures to calibrate `picture` with") as caught:
        calibration_feeds((PICTURE,), Calibration())
    assert "--calibrate DIR" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="'guess' is unknown; known are minmax, percentile, entropy"):
        Calibration(method="guess")
    with pytest.raises(UsageError, match="0 pictures"):
        Calibration(count=0)


def test_what_is_no_folder_of_pictures(folder: Path, tmp_path: Path) -> None:
    for name in ("broken", "notes", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken/a.png").write_bytes(b"nothing")
    (tmp_path / "notes/readme.txt").write_text("nothing")
    for given, text in {
        tmp_path
        / "broken": "none of the 1 picture files in .*broken` can be read; `a.png`: its content is not",
        tmp_path / "notes": "notes` has 1 file and no picture among them; png, ",
        tmp_path / "empty": "empty` is empty; png, ",
        tmp_path / "absent": "absent` does not exist",
        folder / "0.png": "0.png` is a file",
    }.items():
        with pytest.raises(GantkError, match=text) as caught:
            calibration_feeds((PICTURE,), Calibration(given))
        assert caught.value.hint == "--calibrate wants a folder of pictures such as the network will get"
        assert caught.value.exit_code == 1

# SPDX-License-Identifier: Apache-2.0
"""Networks of several styles: any size, blends, and the form that takes its statistics as an input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from bundle_engines import usual_engine
from gantk import checkpoint
from gantk.bundle import Bundle
from gantk.errors import GantkError
from gantk.export import export, verify
from gantk.export.engines.probe import feeds_for, make_probe
from gantk.export.engines.profiles import make_profiles
from gantk.export.network import Network
from gantk.runtime.model import from_bytes
from gantk.runtime.probe import probe_of
from gantk.runtime.registry import open as open_runner
from gantk.runtime.registry import open_model
from gantk.stylize.large import LargePainter, psnr_db
from gantk.stylize.network import choose_look, open_network
from style_pictures import scene
from traced_pictures import REWRITTEN, check_sizes, feeds_of, file_of, make_network, prepare


@pytest.fixture(scope="module")
def module() -> nn.Module:
    return make_network("style", styles=["waves", "candy"], width=4, blocks=1)


@pytest.fixture(scope="module")
def network(traced_once: None, module: nn.Module) -> Network:
    return prepare(module)


@pytest.fixture(scope="module")
def bundle(traced_once: None, module: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("statistics")
    (folder / "x.safetensors").write_bytes(checkpoint.generator_bytes(module))
    return export(
        folder / "x.safetensors", folder / "x.gantk", precisions=["fp32"], rewrites=False, tiles=True
    )


@pytest.mark.parametrize("names", [(), *REWRITTEN], ids=lambda names: "+".join(names) or "plain")
@pytest.mark.parametrize("backend", verify.working_backends("fp32"))
def test_every_size_comes_out_as_pytorch_makes_it(
    network: Network, backend: str, names: tuple[str, ...]
) -> None:
    check_sizes(network, backend, names)


def test_a_blend_of_styles_is_between_them_and_each_style_is_its_own(network: Network) -> None:
    feeds = feeds_of(network, 3, 20, 24)
    feeds["picture"][:] = feeds["picture"][:1]
    feeds["style_weights"] = np.array([[1, 0], [0, 1], [0.5, 0.5]], np.float32)
    with open_model(from_bytes(file_of(network)), "onnxruntime", threads=1) as runner:
        first, second, blend = runner.run(feeds)["stylized"].astype(float)
    assert np.abs(first - second).mean() > 3
    assert np.abs(blend - first).mean() < np.abs(first - second).mean()
    assert np.abs(blend - second).mean() < np.abs(first - second).mean()


def test_the_form_with_statistics_is_verified_and_never_chosen_unasked(bundle: Bundle) -> None:
    plain, shared = bundle.manifest.variants
    assert (plain.form, shared.form, shared.precision) == ("plain", "statistics", "fp32")
    assert shared.parity
    assert all(parity.passed for parity in shared.parity)
    assert shared.interface is not None
    assert [str(spec) for spec in shared.interface.inputs[2:]] == ["statistics: float32[N x 2 x 72]"]
    assert [spec.name for spec in shared.interface.outputs] == ["stylized", "measured"]
    with open_runner(bundle.root) as runner:
        assert [spec.name for spec in runner.inputs] == ["picture", "style_weights"]


def test_its_engines_are_judged_by_pictures_with_their_own_statistics(bundle: Bundle) -> None:
    for variant in bundle.manifest.variants:
        probe = probe_of(bundle, usual_engine(bundle, variant))
        assert probe is not None
        with open_runner(bundle.root, form=variant.form, threads=1) as runner:
            made = runner.run(probe.inputs)
        assert made.keys() == probe.outputs.keys()
        assert np.abs(made["stylized"].astype(int) - probe.outputs["stylized"]).max() <= 1
    np.testing.assert_allclose(made["measured"], probe.outputs["measured"], rtol=1e-3, atol=1e-4)
    assert probe.outputs["measured"].std() > 0.1


def test_tiles_of_other_sizes_are_judged_likewise(bundle: Bundle) -> None:
    shared = bundle.find("fp32", "statistics")
    (profile,) = make_profiles(bundle.manifest.interface(shared), None, ["picture=1x90x99x3"])
    model = from_bytes(bundle.read_file(shared.file))
    assert (model.form, model.inputs) == ("statistics", bundle.manifest.interface(shared).inputs)
    probe = make_probe(model, feeds_for(model.inputs, [profile]), print)
    assert probe is not None
    assert probe.inputs["picture"].shape == (2, 90, 99, 3)
    np.testing.assert_allclose(probe.outputs["measured"], probe.inputs["statistics"], rtol=1e-3, atol=1e-4)
    with open_runner(bundle.root, threads=1) as runner:
        given = {spec.name: probe.inputs[spec.name] for spec in runner.inputs}
        assert np.abs(runner.run(given)["stylized"].astype(int) - probe.outputs["stylized"]).max() <= 1


def test_under_one_picture_statistics_it_paints_what_strips_paint(bundle: Bundle) -> None:
    picture = scene(150, 110)
    with open_network(bundle.root, threads=1) as network:
        look = choose_look(network, weights="waves=1,candy=3")
        strips = LargePainter(network).paint(picture, look, rows=20)
        own = network.paint(picture[None], look)[0]
    with open_runner(bundle.root, form="statistics", threads=1) as runner:
        feeds = {**look.feeds(1), "picture": picture[None]}
        statistics = strips.statistics[None].astype(np.float32)
        shared = runner.run({**feeds, "statistics": statistics})
        whole, measured = shared["stylized"][0], shared["measured"]
        tile = runner.run({**feeds, "picture": picture[None, :100], "statistics": statistics})["stylized"][0]
    assert psnr_db(whole, strips.pixels) >= 60
    assert psnr_db(whole, own) >= 60
    np.testing.assert_allclose(measured[0], strips.statistics, rtol=2e-3, atol=1e-4)
    # A tile under the picture's statistics is the picture, but for the margin that sees beyond it.
    assert psnr_db(tile[:60], own[:60]) >= 60


def test_a_network_without_normalisation_has_no_such_form(
    traced_once: None, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(GantkError, match="no instance normalisation"):
        export(source, tmp_path / "x.gantk", precisions=["fp32"], rewrites=False, tiles=True)
    assert not (tmp_path / "x.gantk").exists()

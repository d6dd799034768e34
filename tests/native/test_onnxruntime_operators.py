# SPDX-License-Identifier: Apache-2.0
"""The native operators in ONNX Runtime, against float64 and against the portable bodies."""

from __future__ import annotations

import ctypes
import itertools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gantk.export.functions import DOMAIN, KINDS, VERSION, bodies
from gantk.export.opset import OPSET
from native_build import KERNELS, onnxruntime_library
from native_sessions import load
from variations import variation

Array = np.ndarray[Any, Any]
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
# Of the largest value. Results of the features' type are rounded to its mantissa; sums are float32 always.
ROUNDING = {"float32": 3e-7, "float16": 2.0**-11, "bfloat16": 2.0**-8}
SUMMED = 3e-7
# Around every block of the kernels: 3 rows, 4 columns, 12 channels; 512 terms, 8 lanes; 6 rows, 16 and 64 places.
CHANNELS = (1, 2, 3, 7, 12, 13, 64, 145)
PLACES = (1, 7, 8, 64, 65, 511, 513, 1300)
# Around a tile of 64 rows and 1024 columns.
PICTURES = [
    (1, 1, 1, 1), (2, 3, 1, 7), (2, 3, 9, 1), (3, 5, 7, 11), (1, 3, 64, 33), (2, 1, 65, 1024), (1, 2, 129, 1025),
    (1, 1, 3, 2050),
]  # fmt: skip


class Session:
    """One node of a function, whose inputs and outputs are float32; what is narrow is cast inside.

    Numpy has no bfloat16, and a Cast costs nothing that a test would see.
    """

    def __init__(
        self, library: Path | None, function: str, dtype: str, *, threads: int = 1, **options: Any
    ) -> None:
        inputs, outputs = _INTERFACES[function]
        casts = [_cast(name, f"{name}_in", TYPES[dtype if narrow else "float32"]) for name, narrow in inputs]
        node = helper.make_node(
            function,
            [f"{name}_in" for name, _ in inputs],
            [f"{name}_out" for name, _ in outputs],
            domain=DOMAIN,
            **options,
        )
        back = [_cast(f"{name}_out", name, TensorProto.FLOAT) for name, _ in outputs]
        graph = helper.make_graph(
            [*casts, node, *back],
            function,
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name, _ in inputs],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name, _ in outputs],
        )
        proto = helper.make_model(
            graph,
            functions=bodies(OPSET, options.get("kind", "l1")) if library is None else [],
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)],
            ir_version=10,
        )
        self._session = load(proto.SerializeToString(), library, threads)

    def __call__(self, **feeds: Array) -> list[Array]:
        return list(
            self._session.run(None, {name: array.astype(np.float32) for name, array in feeds.items()})
        )


_INTERFACES = {
    "GramMatrix": ((("features", True),), (("gram", False),)),
    "GramMatrixGrad": ((("gradient", False), ("features", True)), (("features_gradient", True),)),
    "TotalVariation": ((("pictures", True),), (("value", False), ("gradient", True))),
}


def _cast(source: str, target: str, kind: int) -> Any:
    return helper.make_node("Cast", [source], [target], to=kind)


def narrowed(values: Array, dtype: str) -> Array:
    """What a tensor of a type holds of some values, in float64."""
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    return values.astype(np.float32).astype(kind).astype(np.float64)


def assert_close(found: Array, wanted: Array, tolerance: float) -> None:
    assert found.shape == wanted.shape
    scale = max(float(np.abs(wanted).max()), 1e-30)
    np.testing.assert_allclose(found / scale, wanted / scale, rtol=0, atol=tolerance)


def gram(rows: Array, scale: float) -> Array:
    product: Array = rows @ rows.transpose(0, 2, 1)
    return product * (scale or 1 / rows.shape[2])


@pytest.mark.parametrize("scale", [0.0, 0.25])
@pytest.mark.parametrize("dtype", TYPES)
def test_gram_matrix(library: Path, dtype: str, scale: float) -> None:
    session = Session(library, "GramMatrix", dtype, scale=scale)
    rng = np.random.default_rng(0)
    for channels, places in itertools.product(CHANNELS, PLACES):
        features = rng.standard_normal((2, channels, places)) + 0.5
        (made,) = session(features=features)
        assert_close(made, gram(narrowed(features, dtype), scale), SUMMED)
        np.testing.assert_array_equal(made, made.transpose(0, 2, 1))


@pytest.mark.parametrize("shape", [(2, 5, 3, 7), (1, 4, 2, 3, 5), (1, 600, 2, 2), (1, 530, 700)])
def test_features_of_any_axes_and_many_channels(library: Path, shape: tuple[int, ...]) -> None:
    features = np.random.default_rng(1).standard_normal(shape)
    rows = narrowed(features, "float32").reshape(*shape[:2], -1)
    (made,) = Session(library, "GramMatrix", "float32")(features=features)
    assert_close(made, gram(rows, 0), SUMMED)
    slopes = np.random.default_rng(2).standard_normal((shape[0], shape[1], shape[1]))
    (slope,) = Session(library, "GramMatrixGrad", "float32")(gradient=slopes, features=features)
    both = narrowed(slopes + slopes.transpose(0, 2, 1), "float32")
    assert_close(slope, (both @ rows / rows.shape[2]).reshape(shape), 1e-6)


@pytest.mark.parametrize("scale", [0.0, 0.25])
@pytest.mark.parametrize("dtype", TYPES)
def test_gram_matrix_grad(library: Path, dtype: str, scale: float) -> None:
    session = Session(library, "GramMatrixGrad", dtype, scale=scale)
    rng = np.random.default_rng(3)
    for channels, places in itertools.product(CHANNELS, PLACES):
        features = rng.standard_normal((2, channels, places))
        gradient = rng.standard_normal((2, channels, channels))  # Not symmetric.
        both = narrowed(gradient, "float32") + narrowed(gradient, "float32").transpose(0, 2, 1)
        wanted = both @ narrowed(features, dtype) * (scale or 1 / places)
        (made,) = session(gradient=gradient, features=features)
        assert_close(made, wanted, max(ROUNDING[dtype], 1e-6))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", TYPES)
def test_total_variation(library: Path, dtype: str, kind: str) -> None:
    session = Session(library, "TotalVariation", dtype, kind=kind, epsilon=1e-3)
    for shape in PICTURES:
        pictures = np.random.default_rng(4).random(shape)
        pictures[..., : shape[3] // 2] = 0.5  # Equal neighbours: the slope of |0| is 0.
        value, gradient = variation(narrowed(pictures, dtype), kind, 1e-3)
        made = session(pictures=pictures)
        assert_close(made[0], value, SUMMED)
        assert_close(made[1], gradient, ROUNDING[dtype] * 2)


@pytest.mark.parametrize(
    ("function", "options", "feeds"),
    [
        ("GramMatrix", {}, {"features": (1, 3, 4, 5)}),
        ("GramMatrixGrad", {}, {"gradient": (1, 3, 3), "features": (1, 3, 4, 5)}),
        ("TotalVariation", {}, {"pictures": (1, 3, 4, 5)}),
        ("TotalVariation", {"kind": "isotropic"}, {"pictures": (1, 3, 4, 5)}),
    ],
)
def test_defaults_are_those_of_the_bodies(
    library: Path, function: str, options: dict[str, Any], feeds: dict[str, tuple[int, ...]]
) -> None:
    arrays = {name: np.random.default_rng(5).random(shape) for name, shape in feeds.items()}
    arrays = {name: np.round(array * 2) / 2 for name, array in arrays.items()}  # With differences of 0.
    native, portable = (Session(used, function, "float32", **options)(**arrays) for used in (library, None))
    for found, wanted in zip(native, portable, strict=True):
        assert_close(found, wanted, 1e-6)


@pytest.mark.parametrize("dtype", TYPES)
def test_sums_do_not_lose_small_terms(library: Path, dtype: str) -> None:
    (made,) = Session(library, "GramMatrix", dtype, scale=1.0)(features=np.full((1, 2, 100, 7000), 10.0))
    np.testing.assert_allclose(made, np.full((1, 2, 2), 7e7), rtol=1e-7)
    stripes = np.broadcast_to(np.arange(1500) % 2, (1, 3, 800, 1500))
    value, gradient = Session(library, "TotalVariation", dtype)(pictures=stripes)
    assert value[0] == 3 * 800 * 1499
    assert sorted(np.unique(gradient)) == [-2, -1, 1, 2]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_half_is_read_and_written_as_it_is(library: Path, dtype: str) -> None:
    """With one channel and D = 1/2 the gradient of the Gram matrix is the features themselves."""
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16
    every = np.arange(2**16, dtype=np.uint16).view(kind).astype(np.float32)
    session = Session(library, "GramMatrixGrad", dtype, scale=1.0)
    (made,) = session(gradient=np.full((1, 1, 1), 0.5), features=every.reshape(1, 1, -1))
    np.testing.assert_array_equal(made.reshape(-1), every)


def test_halves_are_rounded_to_nearest(library: Path) -> None:
    """One channel scales the features; among them are ties, subnormals and what passes 65504."""
    session = Session(library, "GramMatrixGrad", "float16", scale=1.0)
    features = np.random.default_rng(6).standard_normal(4096).astype(np.float16)
    features[:6] = [65504, 6e-8, 1e-7, 2049, -65504, 0]
    for factor in (1.5, 1 / 3, 3e-7, 0.0001, 1.0004, 2.0):
        (made,) = session(gradient=np.full((1, 1, 1), factor / 2), features=features.reshape(1, 1, -1))
        with np.errstate(over="ignore"):
            wanted = (features.astype(np.float32) * np.float32(factor)).astype(np.float16)
        np.testing.assert_array_equal(made.reshape(-1), wanted.astype(np.float32))


@pytest.mark.parametrize("function", _INTERFACES)
def test_the_number_of_threads_changes_no_bit(library: Path, function: str) -> None:
    rng = np.random.default_rng(7)
    if function == "TotalVariation":
        feeds = {"pictures": rng.random((2, 3, 150, 1100))}
    else:
        feeds = {"gradient": rng.standard_normal((2, 70, 70)), "features": rng.standard_normal((2, 70, 9000))}
        feeds = {name: feeds[name] for name, _ in _INTERFACES[function][0]}
    one, three = (Session(library, function, "float32", threads=threads) for threads in (1, 3))
    wanted = one(**feeds)
    for _ in range(5):
        for found, alone in zip(three(**feeds), wanted, strict=True):
            np.testing.assert_array_equal(found, alone)


def test_a_registered_operator_takes_the_place_of_a_body(library: Path) -> None:
    """ONNX Runtime looks for a kernel before it inlines a function: nothing has to be taken out of a file."""
    graph = helper.make_graph(
        [helper.make_node("GramMatrix", ["features"], ["gram"], domain=DOMAIN, scale=1.0)],
        "one",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", "C", "K"])],
        [helper.make_tensor_value_info("gram", TensorProto.FLOAT, ["N", "C", "C"])],
    )
    wrong = bodies(OPSET)
    next(node for node in wrong[0].node if node.op_type == "Mul").op_type = "Add"
    proto = helper.make_model(
        graph,
        functions=wrong,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)],
        ir_version=10,
    )
    features = np.ones((1, 2, 5), np.float32)
    for used, wanted in ((library, 5.0), (None, 6.0)):
        (made,) = load(proto.SerializeToString(), used).run(None, {"features": features})
        np.testing.assert_array_equal(made, np.full((1, 2, 2), wanted))


@pytest.mark.parametrize("dtype", TYPES)
def test_types_are_inferred(library: Path, dtype: str) -> None:
    """Outputs that a file declares nothing of have the type of the features, or float32."""
    nodes = [
        helper.make_node("GramMatrixGrad", ["gram", "features"], ["slope"], domain=DOMAIN),
        helper.make_node("TotalVariation", ["features"], ["value", "gradient"], domain=DOMAIN),
    ]
    given = {"gram": TensorProto.FLOAT, "features": TYPES[dtype]}
    outputs = [helper.make_tensor_value_info(name, 0, None) for name in ("slope", "value", "gradient")]
    for value in outputs:
        value.ClearField("type")
    graph = helper.make_graph(
        nodes,
        "types",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in given.items()],
        outputs,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    for axes in (None, ["N", "C", "H", "W"]):
        if axes is not None:
            proto.graph.input[0].CopyFrom(
                helper.make_tensor_value_info("gram", TensorProto.FLOAT, ["N", "C", "C"])
            )
            proto.graph.input[1].CopyFrom(helper.make_tensor_value_info("features", TYPES[dtype], axes))
        found = [value.type for value in load(proto.SerializeToString(), library).get_outputs()]
        wanted = {"float32": "tensor(float)"}.get(dtype, f"tensor({dtype})")
        assert found == [wanted, "tensor(float)", wanted]


def test_shapes_are_inferred(library: Path, tmp_path: Path) -> None:
    """ONNX Runtime replaces every question for a shape by its answer before anything runs."""
    nodes = [
        helper.make_node("GramMatrix", ["features"], ["gram"], domain=DOMAIN),
        helper.make_node("GramMatrixGrad", ["gram", "features"], ["slope"], domain=DOMAIN),
        helper.make_node("TotalVariation", ["slope"], ["value", "gradient"], domain=DOMAIN),
    ]
    wanted = {"gram": [2, 3, 3], "slope": [2, 3, 5, 7], "value": [2], "gradient": [2, 3, 5, 7]}
    graph = helper.make_graph(
        [*nodes, *(helper.make_node("Shape", [name], [f"{name}_shape"]) for name in wanted)],
        "chain",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT16, [2, 3, 5, 7])],
        [helper.make_tensor_value_info(f"{name}_shape", TensorProto.INT64, None) for name in wanted],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    load(proto.SerializeToString(), library, optimised=tmp_path / "optimised.onnx")
    left = onnx.load(tmp_path / "optimised.onnx").graph
    assert list(left.node) == []
    answers = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in left.initializer}
    assert answers == {f"{name}_shape": shape for name, shape in wanted.items()}


@pytest.mark.parametrize(
    ("function", "feeds", "text"),
    [
        (
            "GramMatrix",
            {"features": (2, 3)},
            r"features have shape \[2, 3\]; N x C x H x W or N x C x K is wanted",
        ),
        ("GramMatrix", {"features": (0, 3, 4, 4)}, r"features have shape \[0, 3, 4, 4\]"),
        ("GramMatrix", {"features": (1, 3, 0)}, r"features have shape \[1, 3, 0\]"),
        (
            "GramMatrixGrad",
            {"gradient": (1, 3, 2), "features": (1, 3, 5)},
            r"has shape \[1, 3, 2\]; \[1, 3, 3\] belongs to features \[1, 3, 5\]",
        ),
        ("GramMatrixGrad", {"gradient": (3, 3), "features": (1, 3, 5)}, r"has shape \[3, 3\]"),
        (
            "TotalVariation",
            {"pictures": (3, 4, 5)},
            r"pictures have shape \[3, 4, 5\]; N x C x H x W is wanted",
        ),
        ("TotalVariation", {"pictures": (1, 3, 0, 5)}, r"pictures have shape \[1, 3, 0, 5\]"),
    ],
)
def test_bad_input(library: Path, function: str, feeds: dict[str, tuple[int, ...]], text: str) -> None:
    session = Session(library, function, "float32")
    with pytest.raises(Exception, match=text):
        session(**{name: np.ones(shape) for name, shape in feeds.items()})


@pytest.mark.parametrize(
    ("function", "options", "text"),
    [
        (
            "TotalVariation",
            {"kind": "l3"},
            "the kind of total variation is 'l3'; allowed are l1, l2, isotropic",
        ),
        ("TotalVariation", {"kind": 1}, "the attribute `kind` is no string"),
        ("TotalVariation", {"kind": "isotropic", "epsilon": 0.0}, "epsilon is 0"),
        ("TotalVariation", {"kind": "isotropic", "epsilon": float("nan")}, "a number above 0 is wanted"),
        ("GramMatrix", {"scale": 1}, "the attribute `scale` is no float"),
        ("GramMatrix", {"scale": "1"}, "the attribute `scale` is no float"),
        ("GramMatrixGrad", {"scale": [1.0]}, "the attribute `scale` is no float"),
    ],
)
def test_bad_attributes(library: Path, function: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(Exception, match=text):
        Session(library, function, "float32", **options)


def test_many_threads_share_a_session(library: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    session = Session(library, "GramMatrix", "float32", threads=2)
    pictures = [np.random.default_rng(seed).standard_normal((1, 20, 3000)) for seed in range(8)]
    call: Callable[[Array], Array] = lambda features: session(features=features)[0]  # noqa: E731
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(call, pictures * 3))
    for found, features in zip(together, pictures * 3, strict=True):
        assert_close(found, gram(narrowed(features, "float32"), 0), SUMMED)


def test_nothing_of_gantk_is_seen_from_outside_but_what_onnxruntime_looks_for(library: Path) -> None:
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True
    )
    names = {line.split()[-1] for line in listed.stdout.splitlines()}
    assert "RegisterCustomOps" in names
    assert [name for name in names if "gantk" in name.lower()] == []


@pytest.mark.slow
def test_kernels_for_gpus_are_embedded_and_need_no_driver() -> None:
    if shutil.which("nvcc") is None and not Path("/usr/local/cuda/bin/nvcc").is_file():
        pytest.skip("nvcc is missing: install the CUDA toolkit")
    library = onnxruntime_library(cuda=True)
    ctypes.CDLL(str(library))
    names = {path.stem for path in (KERNELS / "cuda").glob("*.cu")}
    assert b"CUDAExecutionProvider" in library.read_bytes()
    symbols = subprocess.run(["nm", library], capture_output=True, text=True, check=True).stdout
    assert {name for name in names if f" gantk_unit_{name}\n" in symbols} == names
    listed = subprocess.run(["ldd", library], capture_output=True, text=True, check=True).stdout
    assert "cuda" not in listed and "onnxruntime.so" not in listed.replace(str(library), "")

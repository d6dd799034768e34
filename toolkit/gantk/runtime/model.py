# SPDX-License-Identifier: Apache-2.0
"""An ONNX file before a backend has it: its bytes, checked, and what is known of it."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gantk.bundle import FORMS, PRECISIONS, Bundle, Interface, Variant, place_of
from gantk.errors import GantkError, UsageError
from gantk.files import leads_inside, read_bytes
from gantk.runtime.operators import has_native_operators
from gantk.tensors import DTYPES, TensorSpec

if TYPE_CHECKING:
    import onnx

ONNX_LIMIT_BYTES = 2**31 - 1
"""The largest message that protobuf reads."""

# Of the message ModelProto in ONNX's own definition; its other fields are numbers and messages.
_FUNCTIONS_FIELD = 25
_LENGTH_DELIMITED = 2

_QUANTISED = ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul")
_WEIGHT_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp32"}


@dataclass(frozen=True)
class Model:
    """One ONNX file.

    Args:
        data: Its bytes; those of a bundle have been checked against the manifest's hash.
        path: Where it came from.
        inputs: What goes in.
        outputs: What comes out.
        precision: One of `PRECISIONS`: what most of its weights are stored in.
        name: The network's name.
        form: One of `FORMS`.
        external: Whether weights lie in other files beside `path`, which a backend must then open by path.
        channels_last: Whether it was measured faster where a backend lays pictures out so.
        is_wholly_native: Whether native operators are all that is heavy in it: see `gantk.bundle.WHOLLY_NATIVE`.
        has_native_form: Whether it is, or its bundle has a file of its precision that is.
        config: The network's configuration, where the file tells it.
    """

    data: bytes = field(repr=False)
    path: Path | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: str
    name: str
    form: str = "plain"
    external: bool = False
    channels_last: bool = False
    is_wholly_native: bool = False
    has_native_form: bool = False
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """The file's name in errors."""
        return str(self.path or self.name)


def from_path(
    path: str | Path,
    precision: str | None = None,
    form: str | None = None,
    backend: str | None = None,
    device: str = "cpu",
) -> Model:
    """Read one variant of a bundle, or a lone ONNX file.

    Args:
        path: A bundle's folder or an ``.onnx`` file.
        precision: One of `PRECISIONS`; by default fp32 where the bundle has it, else what it has first.
        form: One of `FORMS`; by default the one measured fastest on `backend`, else ``plain``, and none whose
            inputs and outputs are not the bundle's.
        backend: The backend that will run it.
        device: Where.

    Raises:
        GantkError: It cannot be read, is neither of the two, is damaged, or has no such variant.
        UsageError: An unknown precision or form.
    """
    path = Path(path)
    check_choice("precision", precision, PRECISIONS)
    check_choice("form", form, FORMS)
    if path.is_dir():
        bundle = Bundle.read(path)
        return from_variant(bundle, choose(bundle, precision, form, backend, device))
    model = from_bytes(read_bytes(path, ONNX_LIMIT_BYTES), path)
    wanted = (precision or model.precision, form or model.form)
    if wanted != (model.precision, model.form):
        raise GantkError(
            f"`{path}` is {model.precision} ({model.form}), not {wanted[0]} ({wanted[1]})",
            where=str(path),
            hint="leave --precision out, or export a bundle, which holds several",
        )
    return model


def choose(
    bundle: Bundle, precision: str | None, form: str | None, backend: str | None, device: str = "cpu"
) -> Variant:
    """The variant that `from_path` reads; arguments as there.

    Raises:
        GantkError: There is none.
    """
    held = [variant.precision for variant in bundle.manifest.variants]
    precision = precision or ("fp32" if "fp32" in held else held[0])
    fitting = [
        v
        for v in bundle.manifest.variants
        if v.precision == precision and (v.interface is None if form is None else v.form == form)
    ]
    if not fitting:
        return bundle.find(precision, form or "plain")

    def preference(variant: Variant) -> tuple[bool, bool, bool, bool]:
        if backend is None:
            return (False, False, False, variant.form != "plain")
        return (
            variant.failed_on(backend) is not None,
            *slowness(variant, backend, device),
            variant.form != "plain",
        )

    return min(fitting, key=preference)


class Form(Protocol):
    """What is known of how fast a file is."""

    @property
    def fastest_on(self) -> tuple[str, ...]: ...
    @property
    def is_native(self) -> bool: ...


def slowness(form: Form, backend: str, device: str) -> tuple[bool, bool]:
    """The smallest belongs to the form that was measured fastest on a backend and device, of those that are here.

    A form with native operators is not, where their library is not.
    """
    usable = not form.is_native or has_native_operators(device)
    fastest = usable and place_of(backend, device) in form.fastest_on
    return not fastest, not (fastest and form.is_native)


def from_variant(bundle: Bundle, variant: Variant) -> Model:
    """Read and check the file of one variant; what is known of it comes from the manifest."""
    manifest = bundle.manifest
    interface = variant.interface or Interface(manifest.inputs, manifest.outputs)
    return Model(
        data=bundle.read_file(variant.file),
        path=bundle.root / variant.file.path,
        inputs=interface.inputs,
        outputs=interface.outputs,
        precision=variant.precision,
        name=manifest.name,
        form=variant.form,
        channels_last="channels-last" in variant.rewrites,
        is_wholly_native=variant.is_wholly_native,
        has_native_form=any(
            other.is_wholly_native and other.precision == variant.precision for other in manifest.variants
        ),
        config=manifest.config,
    )


def from_bytes(data: bytes, path: Path | None = None) -> Model:
    """Read what the header of an ONNX file says.

    Args:
        data: The whole file.
        path: Where it lies, for errors and for weights stored beside it.

    Raises:
        GantkError: It is not ONNX, is cut short, or has inputs or outputs that gantk cannot feed.
    """
    where = str(path or "model")
    proto = _parse(data, where)
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = _specs([value for value in proto.graph.input if value.name not in weights], where)
    outputs = _specs(proto.graph.output, where)
    facts = {entry.key: entry.value for entry in proto.metadata_props if entry.key.startswith("gantk.")}
    about = _fact(facts, "gantk.model", dict) or {}
    name, config = about.get("name"), about.get("config")
    wholly_native = _fact(facts, "gantk.wholly_native", bool) or False
    return Model(
        data=data,
        path=path,
        inputs=_described(inputs, _fact(facts, "gantk.inputs", list)),
        outputs=_described(outputs, _fact(facts, "gantk.outputs", list)),
        precision=weights_precision(proto),
        name=name if isinstance(name, str) and name else (path.stem if path else proto.graph.name or "model"),
        form=form if (form := _fact(facts, "gantk.form", str)) in FORMS else "plain",
        external=_has_external(proto, path, where),
        channels_last=_fact(facts, "gantk.channels_last", bool) or False,
        is_wholly_native=wholly_native,
        has_native_form=wholly_native,
        config=config if isinstance(config, dict) else {},
    )


def weights_precision(proto: onnx.ModelProto) -> str:
    """What a graph computes in: int8 or fp8 where it is quantised, else the type of most of its weights."""
    if any(node.op_type in _QUANTISED for node in proto.graph.node):
        stored = {_dtype_name(tensor.data_type) for tensor in _all_stored(proto)}
        return "fp8" if any(name.startswith("float8") for name in stored) else "int8"
    counts: Counter[str] = Counter()
    for tensor in _all_stored(proto):
        precision = _WEIGHT_PRECISIONS.get(_dtype_name(tensor.data_type))
        if precision is not None:
            counts[precision] += math.prod(tensor.dims)
    return counts.most_common(1)[0][0] if counts else "fp32"


def without_functions(data: bytes) -> bytes:
    """The same ONNX file with the bodies of its local functions in place of the nodes that call them.

    For backends that do not know local functions; a file that has none comes back as it is.
    """
    if not _has_functions(data):
        return data
    import onnx
    import onnx.inliner

    inlined: bytes = onnx.inliner.inline_local_functions(onnx.load_from_string(data)).SerializeToString()
    return inlined


def check_choice(what: str, value: str | None, allowed: Sequence[str]) -> None:
    """Refuse a value that is not among those allowed; `None` passes."""
    if value is not None and value not in allowed:
        raise UsageError(f"{value!r} is not a {what}; known are {', '.join(allowed)}", where=what)


def _parse(data: bytes, where: str) -> onnx.ModelProto:
    import onnx

    try:
        proto = onnx.load_from_string(data)
    except Exception as error:  # Protobuf's DecodeError, whose package has no types.
        raise _not_onnx(where, "it is cut short, damaged or something else") from error
    # Protobuf reads many a piece of rubbish as a message of unknown fields.
    if not proto.ir_version or not proto.opset_import or not proto.graph.output:
        raise _not_onnx(where, "it holds no graph with outputs")
    return proto


def _has_functions(data: bytes) -> bool:
    """Whether a ModelProto has its field 25, told without parsing the graph, which is all but a few bytes of it."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        if tag >> 3 == _FUNCTIONS_FIELD:
            return True
        value, at = _read_varint(data, at)
        if tag & 7 == _LENGTH_DELIMITED:
            at += value
    return False


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at + shift // 7]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + shift // 7 + 1
    raise AssertionError("not a file that protobuf wrote")


def _not_onnx(where: str, reason: str) -> GantkError:
    return GantkError(
        f"`{where}` is not an ONNX file: {reason}", where=where, hint="export or download it again"
    )


def _specs(values: Sequence[onnx.ValueInfoProto], where: str) -> tuple[TensorSpec, ...]:
    used = {_symbol(axis.dim_param) for value in values for axis in value.type.tensor_type.shape.dim}
    fresh = (symbol for number in count() if (symbol := f"size_{number}") not in used)
    return tuple(_spec(value, fresh, where) for value in values)


def _spec(value: onnx.ValueInfoProto, fresh: Iterator[str], where: str) -> TensorSpec:
    tensor = value.type.tensor_type
    if value.type.WhichOneof("value") != "tensor_type" or not tensor.HasField("shape"):
        raise GantkError(
            f"`{value.name}` of `{where}` is not a tensor with a known number of axes",
            where=where,
            hint="onnx.shape_inference.infer_shapes adds what can be known",
        )
    dtype = _dtype_name(tensor.elem_type)
    if dtype not in DTYPES:
        raise GantkError(
            f"`{value.name}` of `{where}` has type {dtype}; known are {', '.join(DTYPES)}", where=where
        )
    # Some exporters write 0 or -1 for a size that they do not know.
    shape = tuple(
        axis.dim_value if axis.dim_value > 0 else _symbol(axis.dim_param) or next(fresh)
        for axis in tensor.shape.dim
    )
    try:
        return TensorSpec(value.name, dtype, shape)
    except GantkError as error:
        raise GantkError(error.what, where=where) from error


def _symbol(text: str) -> str:
    """A size's name as an identifier; exporters also write expressions such as ``2*H``."""
    symbol = re.sub(r"\W+", "_", text, flags=re.ASCII)[:64]
    return f"_{symbol[:63]}" if symbol[:1].isdigit() else symbol if symbol.strip("_") else ""


def _dtype_name(element: int) -> str:
    import onnx

    try:
        name = str(onnx.TensorProto.DataType.Name(element)).lower()
    except ValueError:
        return f"number {element}"
    return {"float": "float32", "double": "float64"}.get(name, name)


def _described(specs: tuple[TensorSpec, ...], facts: list[Any] | None) -> tuple[TensorSpec, ...]:
    """`specs` with the range and layout that the metadata adds, where that agrees with the graph."""
    try:
        told = tuple(TensorSpec.from_json(fact) for fact in facts or ())
    except GantkError:
        return specs
    bare = [(spec.name, spec.dtype, spec.shape) for spec in specs]
    return told if [(spec.name, spec.dtype, spec.shape) for spec in told] == bare else specs


def _fact(facts: dict[str, str], key: str, kind: type) -> Any:
    """The JSON value of one metadata entry, or `None` where it is absent or not of its kind."""
    try:
        value = json.loads(facts.get(key, "null"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, kind) else None


def _stored(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.TensorProto]:
    """Every tensor stored in a graph, in its constants and in its subgraphs."""
    yield from getattr(graph, "initializer", ())
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
                yield from _stored(inner)


def _all_stored(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for graph in (proto.graph, *proto.functions):
        yield from _stored(graph)


def _has_external(proto: onnx.ModelProto, path: Path | None, where: str) -> bool:
    """Whether weights lie in other files, which must be beside this one."""
    places = [
        entry.value
        for tensor in _all_stored(proto)
        if tensor.data_location == tensor.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    ]
    for place in set(places):
        if path is None:
            raise GantkError(
                f"the weights of `{where}` lie in `{place}`, and its folder is not known", where=where
            )
        folder = path.absolute().parent
        if not leads_inside(folder / place, folder):
            raise GantkError(f"the weights of `{where}` lie outside its folder, in {place!r}", where=where)
        if not (folder / place).is_file():
            raise GantkError(f"the weights of `{where}` lie in `{place}`, which does not exist", where=where)
    return bool(places)

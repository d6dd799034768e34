# SPDX-License-Identifier: Apache-2.0
"""What an ONNX file says of itself, and its local functions."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantk.errors import GantkError
from gantk.files import leads_inside, named_errors
from gantk.tensors import DTYPES, TensorSpec

if TYPE_CHECKING:
    import onnx

# Of the message ModelProto in ONNX's own definition; its other fields are numbers and messages.
_FUNCTIONS_FIELD = 25
_LENGTH_DELIMITED = 2

# The tag of its first field, a number: whatever writes a ModelProto begins with it.
_VERSION = b"\x08"

# The key, as a file spells it, that every tensor has whose values lie elsewhere. Hardly a file needs to be parsed.
_LOCATION = b"location"

_QUANTISED = ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul")
_WEIGHT_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp32"}


def is_onnx(path: Path) -> bool:
    """Whether a file is ONNX, by its name or by how it begins.

    Raises:
        GantkError: It cannot be read.
    """
    with named_errors(path, "read"):
        if not path.is_file():
            return False
        if path.suffix.lower() == ".onnx":
            return True
        with path.open("rb") as stream:
            start = stream.read(9)
    # A safetensors file begins with a length of eight bytes, which may look alike, and a JSON object.
    return start[:1] == _VERSION and start[8:] != b"{"


def parse(data: bytes, where: str) -> onnx.ModelProto:
    """Read a whole file.

    Raises:
        GantkError: It is not ONNX, or is cut short.
    """
    import onnx

    try:
        proto = onnx.load_from_string(data)
    except Exception as error:  # Protobuf's DecodeError, whose package has no types.
        raise _not_onnx(where, "it is cut short, damaged or something else") from error
    # Protobuf reads many a piece of rubbish as a message of unknown fields.
    if not proto.ir_version or not proto.opset_import or not proto.graph.output:
        raise _not_onnx(where, "it holds no graph with outputs")
    return proto


def specs(values: Sequence[onnx.ValueInfoProto], where: str) -> tuple[TensorSpec, ...]:
    """A graph's inputs or outputs as specs; a size without a name gets one.

    Raises:
        GantkError: One is not a tensor with a known number of axes, or of a type that gantk cannot feed.
    """
    used = {_symbol(axis.dim_param) for value in values for axis in value.type.tensor_type.shape.dim}
    fresh = (symbol for number in count() if (symbol := f"size_{number}") not in used)
    return tuple(_spec(value, fresh, where) for value in values)


def described(specs: tuple[TensorSpec, ...], facts: list[Any] | None) -> tuple[TensorSpec, ...]:
    """`specs` with the range and layout that the metadata adds, where that agrees with the graph."""
    try:
        told = tuple(TensorSpec.from_json(fact) for fact in facts or ())
    except GantkError:
        return specs
    bare = [(spec.name, spec.dtype, spec.shape) for spec in specs]
    return told if [(spec.name, spec.dtype, spec.shape) for spec in told] == bare else specs


def fact(facts: dict[str, str], key: str, kind: type) -> Any:
    """The JSON value of one metadata entry, or `None` where it is absent or not of its kind."""
    try:
        value = json.loads(facts.get(key, "null"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, kind) else None


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


def has_external(proto: onnx.ModelProto, path: Path | None, where: str) -> bool:
    """Whether weights lie in other files.

    Raises:
        GantkError: They are not beside this one.
    """
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


def refuse_external(data: bytes, where: str) -> None:
    """Refuse a file of a bundle whose weights lie in other files: nobody has checked the hashes of these.

    Backends differ in what they do about them; OpenVINO reads any file of the machine.

    Raises:
        GantkError: They do, or it is not ONNX.
    """
    if _LOCATION in data and any(
        tensor.external_data or tensor.data_location == tensor.EXTERNAL
        for tensor in _all_stored(parse(data, where))
    ):
        raise GantkError(
            f"the weights of `{where}` lie in other files, of which the bundle has no hashes",
            where=where,
            hint="a bundle's files hold their own weights: gantk export writes them so",
        )


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


def _not_onnx(where: str, reason: str) -> GantkError:
    return GantkError(
        f"`{where}` is not an ONNX file: {reason}", where=where, hint="export or download it again"
    )


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


def _stored(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.TensorProto]:
    """Every tensor stored in a graph, in its constants and in its subgraphs."""
    yield from getattr(graph, "initializer", ())
    yield from _dense(getattr(graph, "sparse_initializer", ()))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            yield from _dense((attribute.sparse_tensor, *attribute.sparse_tensors))
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
                yield from _stored(inner)


def _dense(sparse: Iterable[onnx.SparseTensorProto]) -> Iterator[onnx.TensorProto]:
    for tensor in sparse:
        yield tensor.values
        yield tensor.indices


def _all_stored(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for graph in (proto.graph, *proto.functions):
        yield from _stored(graph)


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

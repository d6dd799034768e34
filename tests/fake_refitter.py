# SPDX-License-Identifier: Apache-2.0
"""How a TensorRT product puts new weights into an engine, on engines that are JSON.

As with the real ones an engine's weights have the names of the ONNX file's initialisers, weights are all taken or the
refit fails, and what is serialized is refittable, and has its weights inside, only where that is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from enum import Enum, auto
from types import SimpleNamespace
from typing import Any, Protocol

import onnx

MAGIC = b"vtrt fake engine "
WEIGHTS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


class SerializationFlag(Enum):
    EXCLUDE_WEIGHTS = auto()
    EXCLUDE_LEAN_RUNTIME = auto()
    INCLUDE_REFIT = auto()


class Product(Protocol):
    """What the fakes here want of the module that they belong to."""

    called: Callable[[str], bool]
    born: Callable[[object], None]


def digests(data: bytes) -> dict[str, str]:
    """Of the weights of an ONNX file, by their names."""
    graph = onnx.load_from_string(data).graph
    return {
        tensor.name: hashlib.sha256(onnx.numpy_helper.to_array(tensor).tobytes()).hexdigest()
        for tensor in graph.initializer
        if tensor.data_type in WEIGHTS
    }


def built(data: bytes, *, refittable: bool = True, stripped: bool = False) -> bytes:
    """An engine of an ONNX file."""
    weights = digests(data)
    return _plan(refittable, dict.fromkeys(weights, "") if stripped else weights)


def weights_of(engine: bytes) -> dict[str, str]:
    """What `digests` says of the file whose weights an engine has."""
    found: dict[str, str] = json.loads(engine.removeprefix(MAGIC))["weights"]
    return found


class Plan:
    """The part of an engine that refitting is about."""

    def __init__(self, trt: Product, data: bytes) -> None:
        self._trt = trt
        text = data.removeprefix(MAGIC)
        known = json.loads(text) if text.startswith(b"{") else {"refittable": False, "weights": {}}
        self.refittable: bool = known["refittable"]
        self.weights: dict[str, str] = known["weights"]

    def create_serialization_config(self) -> SerializationConfig:
        return SerializationConfig()

    def serialize_with_config(self, config: SerializationConfig) -> bytes | None:
        if not self._trt.called("serialize_with_config"):
            return None
        stripped = SerializationFlag.EXCLUDE_WEIGHTS in config.flags
        refittable = self.refittable and SerializationFlag.INCLUDE_REFIT in config.flags
        return _plan(refittable, dict.fromkeys(self.weights, "") if stripped else self.weights)


class SerializationConfig:
    def __init__(self) -> None:
        self.flags: set[SerializationFlag] = {SerializationFlag.EXCLUDE_WEIGHTS}  # To be told otherwise.
        self.set_flag, self.clear_flag = self.flags.add, self.flags.discard


class Refitter:
    def __init__(self, trt: Product, engine: Plan) -> None:
        assert engine.refittable, "the real one is undefined here"
        self._trt, self.engine = trt, engine
        self.given: dict[str, str] = {}
        trt.born(self)

    def get_missing_weights(self) -> list[str]:
        if not self._trt.called("get_missing_weights"):
            return ["w9", "w10"]
        return [name for name in self.engine.weights if name not in self.given]

    def refit_cuda_engine(self) -> bool:
        assert not [name for name in self.engine.weights if name not in self.given]
        if not self._trt.called("refit_cuda_engine"):
            return False
        self.engine.weights = dict(self.given)
        return True


class OnnxParserRefitter:
    num_errors = 0

    def __init__(self, trt: Product, refitter: Refitter) -> None:
        self._trt, self._refitter = trt, refitter
        trt.born(self)

    def refit_from_bytes(self, data: bytes) -> bool:
        found = digests(data)
        lost = [name for name in self._refitter.engine.weights if name not in found]
        if lost or not self._trt.called("refit_from_bytes"):
            self.num_errors = 1
            return False
        self._refitter.given = {name: found[name] for name in self._refitter.engine.weights}
        return True

    def get_error(self, index: int) -> Any:
        assert index < self.num_errors
        return SimpleNamespace(desc=lambda: "Failed to find\n weights: as told")


def _plan(refittable: bool, weights: dict[str, str]) -> bytes:
    return MAGIC + json.dumps({"refittable": refittable, "weights": weights}).encode()

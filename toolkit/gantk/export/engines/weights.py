# SPDX-License-Identifier: Apache-2.0
"""New weights in an engine that was built refittable, by either TensorRT product."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from gantk.errors import GantkError
from gantk.runtime import cuda
from gantk.runtime.backends.loading import deserialize
from gantk.runtime.backends.vendor import vendor_errors
from gantk.runtime.cuda import Cuda
from gantk.runtime.engines import EngineFile
from gantk.runtime.product_log import Log, log
from gantk.runtime.products import Product, load

_REBUILD = "gantk export RUN --to {} --engine-options refit builds an engine of it anew"


def put_weights(product: Product, file: EngineFile, data: bytes) -> bytes:
    """Put the weights of an ONNX file into an engine.

    Args:
        product: That built the engine. Its driver must work.
        file: The engine.
        data: A file of the same graph as that which the engine was built from, with its weights inside.

    Returns:
        The engine with all its weights, refittable as before.

    Raises:
        GantkError: The library finds the engine not refittable, or does not take all of the weights.
    """
    trt = load(product)
    _, engine = deserialize(trt, file, Cuda(cuda.bindings()))
    heard, where = log(trt), file.where
    with heard.listening(), vendor_errors(f"`{where}` cannot be refitted", where):
        if not engine.refittable:
            raise _refused(product, file, "the library finds that it was not built refittable")
        refitter = trt.Refitter(engine, heard.logger)
        weights = _taken_weights(trt, refitter, data, product, file)
        refitted = refitter.refit_cuda_engine()
        del weights  # Not before: the refitter may have them by address.
        if not refitted:
            raise _refused(product, file, heard.said())
        return _serialize(trt, engine, heard, product, file)


def _taken_weights(trt: ModuleType, refitter: Any, data: bytes, product: Product, file: EngineFile) -> Any:
    """Give an engine's refitter every weight that it wants: with some old and some new it would be another network.

    Returns:
        What holds the weights.
    """
    refit_parser = trt.OnnxParserRefitter(refitter, log(trt).logger)
    if not refit_parser.refit_from_bytes(data):
        said = refit_parser.get_error(0).desc() if refit_parser.num_errors else log(trt).said()
        raise _refused(product, file, " ".join(said.split()))
    missing = refitter.get_missing_weights()
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise _refused(product, file, f"no new weights were found for `{missing[0]}`{more}")
    return refit_parser


def _serialize(trt: ModuleType, engine: Any, heard: Log, product: Product, file: EngineFile) -> bytes:
    serialization = engine.create_serialization_config()
    serialization.clear_flag(trt.SerializationFlag.EXCLUDE_WEIGHTS)
    serialization.set_flag(trt.SerializationFlag.INCLUDE_REFIT)  # Else the next style would want a rebuild.
    serialized = engine.serialize_with_config(serialization)
    if serialized is None:
        raise _refused(product, file, heard.said())
    return bytes(serialized)


def _refused(product: Product, file: EngineFile, why: str) -> GantkError:
    return GantkError(
        f"`{file.where}` cannot be refitted: {why}", where=file.where, hint=_REBUILD.format(product.name)
    )

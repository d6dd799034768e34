# SPDX-License-Identifier: Apache-2.0
"""gantk's own kernels inside an engine, where its product takes plugins whose PTX becomes a part of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType

from gantk.errors import BackendMissingError, GantkError
from gantk.runtime import driver
from gantk.runtime.products import Product

QUICK_PLUGINS = "quick-plugins"
"""What an engine's manifest calls the rewrite that puts them there. No library is wanted when the engine runs."""

WITHOUT = "--no-plugins builds it of ordinary operators"
"""What to do where an engine with plugins does not build."""

OPERATORS = ("GramMatrix", "TotalVariation")
"""The functions of domain ``gantk`` that have plugins."""

WIDENING = ("version-compatible", "hardware-compatible")
"""Options for other versions and GPUs than those at hand, for which nobody has seen that the PTX is taken."""


def put_kernels(
    product: Product,
    trt: ModuleType,
    data: bytes,
    sizes: Mapping[str, Sequence[int]],
    options: Sequence[str] = (),
    *,
    tf32: bool = False,
) -> tuple[bytes, tuple[str, ...]]:
    """Put plugins in the place of Gram matrices and total variation; both have portable bodies otherwise.

    Args:
        product: That is to build the file, in this process: its plugins are made known.
        trt: Its module.
        data: An ONNX file.
        sizes: The shape of each input that the engine is tuned for.
        options: Of the engine, of `gantk.bundle.ENGINE_OPTIONS`.
        tf32: Whether Gram matrices of float32 features may round them to 10 bits of mantissa.

    Returns:
        The file, and the name of what was done to it; nothing is done where the file has no such operator, or the
        product no such plugins.

    Raises:
        BackendMissingError: NVRTC, which compiles the kernels, is not installed.
        GantkError: The GPU is older than the kernels, the driver older than NVRTC, or the shape of what they take is
            not to be found.
    """
    if not product.quick_plugins or set(options) & set(WIDENING) or not _has_operators(data):
        return data, ()
    import onnx

    from gantk.kernels.device import gpu
    from gantk.kernels.tensorrt import register, take_raised
    from gantk.kernels.tensorrt_graph import with_plugins

    try:
        register(trt)
    except BackendMissingError:  # An older release, which builds the bodies.
        return data, ()
    _refuse_newer_ptx()
    take_raised()  # By an earlier build.
    device, precision = gpu(0).device, "tf32" if tf32 else "exact"
    try:
        made = with_plugins(onnx.load_from_string(data), sizes, device, precision)
    except GantkError as error:
        raise GantkError(error.what, where=error.where, hint=error.hint or WITHOUT) from error
    return made.SerializeToString(), (QUICK_PLUGINS,)


def raised_in_kernels() -> GantkError | None:
    """What went wrong in a plugin that `put_kernels` put there, where something did: the product does not say it."""
    from gantk.kernels.tensorrt import take_raised

    error = take_raised()
    if error is None:
        return None
    what = error.what if isinstance(error, GantkError) else f"{type(error).__name__}: {error}"
    hint = getattr(error, "hint", None)
    return GantkError(f"gantk's kernels do not go into the engine: {what}", hint=hint or WITHOUT)


def _refuse_newer_ptx() -> None:
    """Refuse PTX that the driver may not know: it translates what NVRTCs of its CUDA version and older ones make."""
    from gantk.kernels.compile import nvrtc_version

    served = driver.probe().cuda_version
    major, minor = nvrtc_version()
    if served is not None and (major, minor) > tuple(map(int, served.split("."))):
        raise GantkError(
            f"gantk's kernels do not go into the engine: NVRTC is {major}.{minor}, and the NVIDIA driver takes what "
            f"those up to {served} make",
            hint=f"pip install 'nvidia-cuda-nvrtc=={served}.*', or update the driver; {WITHOUT}",
        )


def _has_operators(data: bytes) -> bool:
    if not any(operator.encode() in data for operator in OPERATORS):
        return False  # Without reading hundreds of megabytes.
    import onnx

    nodes = onnx.load_from_string(data).graph.node
    return any(node.domain == "gantk" and node.op_type in OPERATORS for node in nodes)

# SPDX-License-Identifier: Apache-2.0
"""One interface over every backend, and the one place where inputs are checked."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gantk.errors import GantkError
from gantk.runtime.views import on_gpu
from gantk.tensors import TensorSpec

Array = NDArray[Any]

_FEW_VALUES = 256
"""Of which Python sees sooner than numpy, whose code has left the caches after a network, that all are finite."""


class Runner(ABC):
    """A network, loaded and ready to run. Threads may share one.

    Args:
        inputs: What goes in.
        outputs: What comes out.
        backend: The backend's name, e.g. ``onnxruntime``.
        version: The backend's version.
        device: Where it runs: ``cpu`` or ``cuda``.
        precision: The precision it really computes in, which may not be that of the file: ONNX Runtime
            computes a fp16 graph in fp32 on a CPU.
        file_precision: The precision of the file it runs.
        layers: How many heavy layers (convolutions, matrix products) run in each precision, where the
            backend tells.
        passed_over: The backends that ``auto`` tried before this one, and why each did not do.
    """

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        backend: str,
        version: str,
        device: str,
        precision: str,
        file_precision: str,
        layers: Mapping[str, int] | None = None,
    ) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.backend = backend
        self.version = version
        self.device = device
        self.precision = precision
        self.file_precision = file_precision
        self.layers = dict(layers or {})
        self.passed_over: dict[str, str] = {}
        self._input_names = {spec.name for spec in inputs}
        # Shapes of the last inputs that passed the check: the next ones are most often alike.
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._dtypes = {spec.name: numpy_dtype(spec) for spec in (*inputs, *outputs)}

    def run(self, feeds: Mapping[str, Any], out: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Run the network once.

        Args:
            feeds: An array for each input: numpy, or anything on the CPU with ``__dlpack__`` or
                ``__array_interface__``, taken without a copy where it is contiguous.
            out: Contiguous arrays to write outputs to; outputs that it does not name are fresh arrays.

        Returns:
            An array for each output, by name.

        Raises:
            GantkError: An input is missing, unknown, of the wrong dtype or shape, or has a value that is
                not finite; an array in `out` does not fit; the runner is closed; the backend failed.
        """
        if not isinstance(feeds, Mapping) or feeds.keys() != self._input_names:
            raise self._wrong_names(feeds)
        arrays = self._alike(feeds)
        if arrays is None:
            sizes: dict[str, int] = {}
            arrays = {spec.name: self._checked(spec, feeds[spec.name], sizes) for spec in self.inputs}
            self._shapes = {name: array.shape for name, array in arrays.items()}
        if out:
            self._check_out(out)
        return self._run(arrays, out or {})

    @abstractmethod
    def _run(self, arrays: dict[str, Array], out: Mapping[str, Array]) -> dict[str, Array]:
        """Run on checked, contiguous arrays."""

    @abstractmethod
    def close(self) -> None:
        """Give back what the backend holds. Closing twice is harmless; running afterwards is an error."""

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._what()}>"

    def _what(self) -> str:
        return f"{self.backend} {self.version}, {self.precision} on {self.device}"

    def _alike(self, feeds: Mapping[str, Any]) -> dict[str, Array] | None:
        """The inputs, where they need no conversion and have the shapes of the call before, which fitted; or `None`.

        After a network, all that Python touches has left the caches: the less it is, the better.
        """
        arrays, shapes = {}, self._shapes  # Read once: another thread may replace them.
        for spec in self.inputs:
            array = feeds[spec.name]
            if type(array) is not np.ndarray or array.shape != shapes.get(spec.name):
                return None
            if array.dtype != self._dtypes[spec.name] or not array.flags.c_contiguous:
                return None
            _refuse_values(spec, array)
            arrays[spec.name] = array
        return arrays

    def _checked(self, spec: TensorSpec, value: Any, sizes: dict[str, int]) -> Array:
        if not isinstance(value, np.ndarray) and on_gpu(value):
            raise GantkError(
                f"input {spec.name!r} is in GPU memory; run(...) takes arrays in host memory",
                where=str(spec),
                hint=f"copy it to the CPU first; or {self._where_gpu_arrays_go()}",
            )
        array = value if isinstance(value, np.ndarray) else _as_array(spec, value)
        if array.dtype != self._dtypes[spec.name]:
            raise GantkError(
                f"input {spec.name!r} has dtype {array.dtype}; the network wants {spec.dtype}",
                where=str(spec),
                hint=f"array.astype('{spec.dtype}'){_with_range(spec)}",
            )
        if array.ndim != len(spec.shape):
            raise _wrong_shape(spec, array.shape)
        for size, wanted in zip(array.shape, spec.shape, strict=True):
            if isinstance(wanted, str):
                wanted = sizes.setdefault(wanted, size)  # noqa: PLW2901
            if size != wanted or size == 0:
                raise _wrong_shape(spec, array.shape, sizes)
        refuse_small(spec, array.shape)
        _refuse_values(spec, array)
        return array if array.flags.c_contiguous else np.ascontiguousarray(array)

    def _check_out(self, out: Mapping[str, Array]) -> None:
        specs = {spec.name: spec for spec in self.outputs}
        for name, array in out.items():
            if name not in specs:
                raise GantkError(f"the network has no output {name!r}; it has {', '.join(specs)}")
            if not isinstance(array, np.ndarray) or array.dtype != self._dtypes[name]:
                raise GantkError(
                    f"`out` for {name!r} must be a numpy array of {specs[name].dtype}", where=str(specs[name])
                )
            if not array.flags.c_contiguous or not array.flags.writeable:
                raise GantkError(
                    f"`out` for {name!r} must be contiguous and writeable", where=str(specs[name])
                )

    def _wrong_names(self, feeds: object) -> GantkError:
        wanted = ", ".join(str(spec) for spec in self.inputs)
        if not isinstance(feeds, Mapping):
            first = self.inputs[0].name
            what = (
                f"the inputs are a {type(feeds).__name__}; a mapping from names to arrays is wanted: {wanted}"
            )
            return GantkError(what, hint=f"runner.run({{{first!r}: array}})")
        got = ", ".join(map(repr, feeds)) or "none"
        return GantkError(f"the inputs given are {got}; the network wants {wanted}")

    def _delivered(
        self, results: dict[str, Array], out: Mapping[str, Array], *, copy: bool = False
    ) -> dict[str, Array]:
        """Put results where `out` wants them; with `copy` the others are views, and fresh arrays are made."""
        if not out and not copy:
            return results
        for name, array in out.items():
            wanted = results[name].shape
            if array.shape != wanted:
                raise GantkError(
                    f"`out` for {name!r} has shape {list(array.shape)}; the output has {list(wanted)}"
                )
        for name, result in results.items():
            if name in out:
                np.copyto(out[name], result)
                results[name] = out[name]
            elif copy:
                results[name] = result.copy()
        return results

    def _where_gpu_arrays_go(self) -> str:
        """What takes an array in GPU memory, which `run` does not."""
        return "launch(...) of an engine or of ONNX Runtime, opened with device='cuda', takes it where it is"

    def _closed(self) -> GantkError:
        return GantkError("the runner is closed", where=self._what(), hint="open the bundle again")

    def _failed(self, text: str) -> GantkError:
        return GantkError(f"{self.backend} failed to run the network: {text}", where=self._what())


def _refuse_values(spec: TensorSpec, array: Array) -> None:
    """Refuse values that are not finite, or out of an integer's range."""
    if array.dtype.kind in "fV" and not _are_finite(array):  # ml_dtypes' bfloat16 has kind V.
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        raise GantkError(
            f"input {spec.name!r} has {bad} of {array.size} values that are NaN or infinite", where=str(spec)
        )
    if spec.range is not None and array.dtype.kind == "i":
        _refuse_outside(spec, array)


def _are_finite(array: Array) -> bool:
    if array.size <= _FEW_VALUES and array.dtype == np.float32:
        return all(map(math.isfinite, array.ravel().tolist()))
    return bool(np.isfinite(array).all())


def _wrong_shape(
    spec: TensorSpec, shape: tuple[int, ...], sizes: Mapping[str, int] | None = None
) -> GantkError:
    bound = ", ".join(f"{symbol} = {size}" for symbol, size in (sizes or {}).items())
    return GantkError(
        f"input {spec.name!r} has shape {list(shape)}; the network wants [{', '.join(map(str, spec.shape))}]"
        + (f" with {bound}" if bound else "")
        + (", each at least 1" if 0 in shape else ""),
        where=str(spec),
    )


def _refuse_outside(spec: TensorSpec, array: Array) -> None:
    """Refuse integers such as labels beyond their range: backends may read what lies beside a table."""
    assert spec.range is not None
    low, high = spec.range
    bad = int(np.count_nonzero((array < low) | (array > high)))
    if bad:
        raise GantkError(
            f"input {spec.name!r} has {bad} of {array.size} values outside {low:g} to {high:g}",
            where=str(spec),
        )


def _with_range(spec: TensorSpec) -> str:
    """Pixels are not 0 or 1, which is what a picture from 0 to 1 would become."""
    return "" if spec.range is None else ", with values from {:g} to {:g}".format(*spec.range)


def refuse_small(spec: TensorSpec, shape: tuple[int, ...]) -> None:
    """Refuse a picture that has too few pixels: backends crash on it, or make rubbish of it.

    Raises:
        GantkError: Its height or width is less than `TensorSpec.smallest`.
    """
    if spec.smallest == 1:
        return
    assert spec.picture_axes is not None
    height, width = (shape[axis] for axis in spec.picture_axes)
    if min(height, width) < spec.smallest:
        raise GantkError(
            f"input {spec.name!r} is a picture of {width} x {height} pixels (width x height); the network wants "
            f"at least {spec.smallest} x {spec.smallest}",
            where=str(spec),
            hint="enlarge it, or pad it, first",
        )


def _as_array(spec: TensorSpec, value: Any) -> Array:
    """View anything that offers its memory as a numpy array."""
    if (
        not hasattr(value, "__dlpack__")
        and not hasattr(value, "__array__")
        and not hasattr(value, "__array_interface__")
    ):
        raise GantkError(
            f"input {spec.name!r} is a {type(value).__name__}; an array is wanted",
            where=str(spec),
            hint=f"numpy.asarray(value, dtype='{spec.dtype}')",
        )
    try:
        return np.from_dlpack(value) if hasattr(value, "__dlpack__") else np.asarray(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise GantkError(
            f"input {spec.name!r} cannot be viewed as an array: {error}", where=str(spec)
        ) from error


def numpy_dtype(spec: TensorSpec) -> np.dtype[Any]:
    return dtype_named(spec.dtype)


def dtype_named(name: str) -> np.dtype[Any]:
    """numpy's type of that name; bfloat16 is that of ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes

        dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return dtype
    return np.dtype(name)

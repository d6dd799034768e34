# SPDX-License-Identifier: Apache-2.0
"""An execution context of a TensorRT product: what it was told, and the memory that it was given."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from gantk.errors import GantkError
from gantk.runtime.backends.kernel_cache import KernelCache
from gantk.runtime.backends.open_outputs import OpenOutputs
from gantk.runtime.backends.plans import Shape
from gantk.runtime.backends.scratch import Scratch
from gantk.runtime.cuda import Cuda, is_shortage
from gantk.runtime.product_log import Log


class Execution:
    """A context with a profile, shapes and addresses, on which one run after another is enqueued.

    A graph that is captured of it works with the state that it has then: whatever it is told later makes the graph's
    launches undefined (TensorRT's documentation: "Limitations of CUDA Graphs"). Hence one context for each graph.

    Args:
        context: The product's, without memory of its own.
        scratch: Memory for it, which contexts whose runs follow each other may share.
        kernels: What the product compiles when it runs, where it does so.
        cuda: Calls CUDA.
        heard: The product's log.
        where: The engine's name, for errors.
    """

    def __init__(
        self, context: Any, scratch: Scratch, kernels: KernelCache | None, cuda: Cuda, heard: Log, where: str
    ) -> None:
        self._context = context
        self._scratch, self._kernels = scratch, kernels
        self._cuda, self._heard, self._where = cuda, heard, where
        self._profile = 0
        self._told: tuple[Any, ...] | None = None
        """The profile and the shapes of inputs; `None` while they are neither the old ones nor the new."""
        self._given: tuple[Any, ...] | None = None
        """Likewise what its memory is for, and where that is."""
        self._is_new = False

    def is_told(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether these shapes were the last that it was told, so that `bind` changes nothing."""
        return self._told is not None and self._told[1:] == tuple(shapes.items())

    def bind(self, profile: int, shapes: Mapping[str, Shape], stream: Any) -> None:
        """Tell it which shapes come, and give it memory for them; addresses follow.

        No run may be under way where they are others than before.

        Args:
            profile: That serves the shapes.
            shapes: Of the inputs.
            stream: On which the run will be.

        Raises:
            GantkError: The library refuses them, or memory is short.
        """
        wanted = (profile, *shapes.items())
        if self._told != wanted:
            self._told, self._is_new = None, True
            with self._heard.listening():
                if profile != self._profile:
                    self._switch(profile, stream)
                for name, shape in shapes.items():
                    if not self._context.set_input_shape(name, shape):
                        raise self.failure(f"take {name} of shape {'x'.join(map(str, shape))}")
            self._told = wanted
        if self._given != (*wanted, self._scratch.address):
            self._given = None
            self._scratch.reserve(self._context, stream)
            with self._heard.listening():
                self._scratch.give(self._context)
                if self._heard.complained:  # It then works with what it had, which may be gone.
                    raise self.failure("take memory for these shapes")
            self._given = (*wanted, self._scratch.address)

    def shape_of(self, name: str, open_outputs: OpenOutputs) -> Shape:
        """The shape of an output for these inputs; sides that only the run tells are below 0.

        Args:
            name: Of the output.
            open_outputs: Takes it then.
        """
        shape = tuple(int(size) for size in self._context.get_tensor_shape(name))
        if any(size < 0 for size in shape) and not open_outputs.attach(self._context, name):
            raise self.failure(f"take an allocator for {name}")
        return shape

    def give_addresses(self, addresses: Mapping[str, int]) -> None:
        """Tell it where inputs and outputs lie in GPU memory."""
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise self.failure(f"take an address for {name}")

    def run(self, stream: Any) -> bool:
        """Enqueue one run; whether the library did, whose words `failure` has."""
        with self._heard.listening():
            enqueued = bool(self._context.execute_async_v3(int(stream)))
        if enqueued and self._is_new and self._kernels is not None:
            self._kernels.ran(self._told)
        self._is_new = self._is_new and not enqueued
        return enqueued

    def is_capturable(self, stream: Any) -> bool:
        """Whether its runs may become a graph, as far as the library says so beforehand."""
        if not hasattr(self._context, "is_stream_capturable"):  # With TensorRT, a capture has to fail.
            return True
        return bool(self._context.is_stream_capturable(int(stream)))

    def failure(self, doing: str) -> GantkError:
        """The error for what the library has refused, in its words."""
        said, hint = self._heard.said(), None
        if is_shortage(said):
            said = f"{said}; of the GPU's memory {self._cuda.memory()}"
            hint = "end what else uses the GPU, or give smaller pictures"
        return GantkError(f"`{self._where}` cannot {doing}: {said}", where=self._where, hint=hint)

    def _switch(self, profile: int, stream: Any) -> None:
        switched = False
        with suppress(RuntimeError):  # The bindings raise where the library itself says no.
            switched = self._context.set_optimization_profile_async(profile, int(stream))
        if not switched:
            raise self.failure("switch to another profile")
        self._cuda.synchronize(stream)
        self._profile = profile

# SPDX-License-Identifier: Apache-2.0
"""The module of TensorRT proper, as much of it as a build touches: it keeps what it was told, and builds nothing."""

from __future__ import annotations

from enum import Enum, auto
from types import SimpleNamespace
from typing import Any


class Flag(Enum):
    TF32 = auto()
    VERSION_COMPATIBLE = auto()
    REFIT = auto()
    STRIP_PLAN = auto()


class Cache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytes:
        return self.data + b"+measured"


class Config:
    def __init__(self) -> None:
        self.flags = {Flag.TF32}  # As the real one.
        self.hardware_compatibility_level = "none"
        self.limits: dict[str, int] = {}
        self.profiles: list[dict[str, Any]] = []
        self.cache: Cache | None = None
        self.refused: set[bytes] = set()
        self.set_flag, self.clear_flag = self.flags.add, self.flags.discard

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.limits[pool] = size

    def add_optimization_profile(self, profile: dict[str, Any]) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, data: bytes) -> Cache | None:
        return None if data == b"rubbish" else Cache(data)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.data in self.refused:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> Cache | None:
        return self.cache


class Profile(dict[str, Any]):
    def set_shape(self, name: str, low: Any, mid: Any, high: Any) -> None:
        self[name] = (low, mid, high)


class TensorRT:
    """As much of the module as a build touches."""

    BuilderFlag = Flag
    NetworkDefinitionCreationFlag = SimpleNamespace()  # From release 11 on there is but one kind of network.
    HardwareCompatibilityLevel = SimpleNamespace(AMPERE_PLUS="ampere")
    MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
    LayerType = SimpleNamespace(CONSTANT="constant", DEQUANTIZE="dequantize")
    DataType = SimpleNamespace(FLOAT="float")

    class ILogger:
        Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1)

    class IProgressMonitor:
        pass

    def __init__(self) -> None:
        self.config = Config()
        self.created: list[int] = []
        self.made: bytes | None = b"plan"
        self.parsed: list[bytes] = []

    def Builder(self, logger: object) -> Any:  # noqa: N802
        return SimpleNamespace(
            create_network=lambda flags: self.created.append(flags) or SimpleNamespace(num_layers=0),
            create_builder_config=lambda: self.config,
            create_optimization_profile=Profile,
            build_serialized_network=lambda network, config: self.made,
        )

    def OnnxParser(self, network: object, logger: object) -> Any:  # noqa: N802
        return SimpleNamespace(parse=lambda data: self.parsed.append(data) or True)


FLAG = "given memory"


class Flagged:
    """A builder that refuses a flag, as TensorRT for RTX does for sizes that depend on the data.

    Args:
        trt: Whose.
        refuses: Whether it does.
        then: What it logs without the flag, where it fails then too.
    """

    def __init__(self, trt: TensorRT, refuses: bool, then: str = "") -> None:
        self.refuses, self.then = refuses, then
        self.seen: list[bool] = []
        self.create_network = lambda flags: SimpleNamespace(num_layers=0)
        self.create_builder_config, self.create_optimization_profile = lambda: trt.config, Profile
        self.logger: Any = None
        trt.Builder = self  # type: ignore[method-assign, assignment]

    def __call__(self, logger: Any) -> Flagged:
        self.logger = logger
        return self

    def build_serialized_network(self, network: object, config: Config) -> bytes | None:
        self.seen.append(FLAG in config.flags)
        if self.seen[-1] and self.refuses:
            said = "BuilderFlag::kREQUIRE_USER_ALLOCATION is not compatible with data-dependent shapes"
        else:
            said = self.then
        if said:
            self.logger.log(0, said)
        return None if said else b"plan"

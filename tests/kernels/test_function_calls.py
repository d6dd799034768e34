# SPDX-License-Identifier: Apache-2.0
"""What the functions of `gantk.kernels` ask of the driver: streams, memory, graphs, and where results go."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable

import numpy as np
import pytest

from gantk import kernels
from gantk.errors import GantkError
from gantk.runtime import dlpack
from gantk.runtime.cuda import POOLED_BYTES

pytest.importorskip("cuda.bindings", reason="wants cuda-bindings")
from fake_gpu import FakeCuda, FakeGPU
from function_arguments import Claimed, Laid
from function_references import error, gram, gram_slope, numbers

from variations import variation

STREAM = 0x5000


def test_results_go_where_out_says(cuda: FakeCuda) -> None:
    given, outer = numbers(2, 4, 3, 5), numbers(2, 4, 4)
    features, grad = kernels.to_device(given), kernels.to_device(outer)
    out = kernels.to_device(np.full((2, 4, 4), np.nan, np.float32))
    assert kernels.gram_matrix(features, out=out) is out
    assert error(out.numpy(), gram(given)) < 2e-6
    slope = Laid(cuda, np.full(given.shape, np.nan, np.float32), (0, 2, 3, 1))
    assert kernels.gram_matrix_grad(grad, features, out=slope) is slope
    stored = np.frombuffer(
        cuda.memory.read(slope.__cuda_array_interface__["data"][0], given.nbytes), np.float32
    )
    assert error(stored.reshape(2, 3, 5, 4).transpose(0, 3, 1, 2), gram_slope(outer, given)) < 2e-6
    value = kernels.to_device(np.full(2, np.nan, np.float32))
    found = kernels.total_variation(features, with_gradient=True, out=(value, None))
    assert found[0] is value
    np.testing.assert_allclose(value.numpy(), variation(given, "l1", 0)[0], rtol=1e-5)
    loss = kernels.to_device(np.full(2, np.nan, np.float32))
    into = kernels.to_device(np.full(given.shape, np.nan, np.float32))
    found = kernels.style_loss([features], [out], [1.0], with_gradient=True, out=(loss, [into]))
    assert found[0] is loss
    assert found[1][0] is into
    assert abs(loss.numpy()).max() < 1e-10  # Its own Gram matrix is the target.


def test_a_pool_keeps_some_memory_that_nobody_uses(cuda: FakeCuda) -> None:
    """Else each wait gives all of it back, and taking it anew takes longer than a kernel."""
    for _ in range(2):
        kernels.to_device(numbers(2, 4, 3, 5))
    assert cuda.pool_keeps == {1: POOLED_BYTES}
    assert cuda.count("cuMemPoolSetAttribute") == 1


def test_everything_happens_on_the_callers_stream(cuda: FakeCuda) -> None:
    features = kernels.to_device(numbers(2, 40, 8, 9), stream=STREAM)
    cuda.calls.clear()
    found = kernels.gram_matrix(features, stream=STREAM)
    streams = {
        name: arguments
        for name, arguments in cuda.calls
        if name.endswith("Async") or name == "cuLaunchKernel"
    }
    assert {"cuLaunchKernel", "cuMemAllocAsync", "cuMemFreeAsync"} <= set(streams)
    for name, arguments in cuda.calls:
        if name == "cuLaunchKernel":
            assert arguments[8] == STREAM
        if name.endswith("Async"):
            assert arguments[-1] == STREAM
    assert cuda.waits == []  # Nothing came from another stream.
    assert not {name for name, _ in cuda.calls} & {"cuCtxSynchronize", "cuStreamSynchronize", "cuMemAlloc"}
    assert found.__cuda_array_interface__["stream"] == STREAM
    del found


@pytest.mark.parametrize(
    ("capability", "version", "asked", "early"),
    [
        ((9, 0), 13000, "", True),
        ((12, 0), 12030, "", True),
        ((9, 0), 12020, "", False),
        ((8, 9), 13000, "", False),
        ((9, 0), 13000, "off", False),
    ],
)
def test_what_waits_by_itself_is_launched_early(
    interpreted: Callable[..., FakeCuda],
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    version: int,
    asked: str,
    early: bool,
) -> None:
    """Where the GPU's code can wait, the driver captures such launches into graphs, and nobody wants it otherwise."""
    monkeypatch.setenv("GANTK_EARLY_LAUNCHES", asked)
    cuda = interpreted(gpus=(FakeGPU(capability, shared_bytes=99 * 1024),), version=version)
    given = numbers(1, 20, 6, 5)
    value = kernels.total_variation(kernels.to_device(given, stream=STREAM), stream=STREAM)
    np.testing.assert_allclose(value.numpy(), variation(given, "l1", 0)[0], rtol=1e-5)
    launches = [
        (name, int(arguments[0].hStream) if name.endswith("Ex") else arguments[8])
        for name, arguments in cuda.calls
        if name.startswith("cuLaunch")
    ]
    assert launches == [
        ("cuLaunchKernel", STREAM),
        ("cuLaunchKernelEx" if early else "cuLaunchKernel", STREAM),
    ]


def test_our_stream_waits_for_the_producer(cuda: FakeCuda) -> None:
    features = kernels.to_device(numbers(1, 4, 3, 3), stream=0x6000)
    kernels.gram_matrix(features, stream=STREAM)
    assert cuda.waits == [(STREAM, 0x6000)]


def test_a_second_call_loads_and_asks_nothing_again(cuda: FakeCuda) -> None:
    features = kernels.to_device(numbers(1, 40, 8, 9))
    first = kernels.gram_matrix(features).numpy()
    cuda.calls.clear()
    found = kernels.gram_matrix(features)
    once = ("cuLibraryLoadData", "cuLibraryGetKernel", "cuKernelSetAttribute", "cuDevicePrimaryCtxRetain",
            "cuDeviceGetAttribute")  # fmt: skip
    assert [cuda.count(name) for name in once] == [0] * 5
    np.testing.assert_array_equal(found.numpy(), first)


def test_a_workspace_of_the_caller_is_used(cuda: FakeCuda) -> None:
    given = numbers(1, 40, 8, 9)
    features = kernels.to_device(given)
    small = kernels.to_device(np.zeros(16, np.float32))
    with pytest.raises(GantkError, match=r"the workspace has 64 bytes; at least \d+ are wanted") as error_:
        kernels.gram_matrix(features, workspace=small)
    wanted = int(str(error_.value).split("at least ")[1].split()[0])
    room = kernels.to_device(np.zeros(wanted // 4, np.float32))
    cuda.calls.clear()
    out = kernels.to_device(np.zeros((1, 40, 40), np.float32))
    before = cuda.count("cuMemAllocAsync")
    kernels.gram_matrix(features, workspace=room, out=out)
    assert cuda.count("cuMemAllocAsync") == before
    assert error(out.numpy(), gram(given)) < 2e-6


def test_nothing_is_forbidden_while_a_graph_is_captured(cuda: FakeCuda) -> None:
    given = numbers(1, 40, 8, 9)
    features, grad = kernels.to_device(given), kernels.to_device(numbers(1, 40, 40))
    out, slope = kernels.to_device(numbers(1, 40, 40)), kernels.to_device(given)
    value, room = kernels.to_device(np.zeros(1, np.float32)), kernels.to_device(np.zeros(2**17, np.float32))
    held = dict(cuda.allocated)
    cuda.capturing = True
    kernels.gram_matrix(features, out=out, workspace=room)  # It loads code, too.
    kernels.gram_matrix_grad(grad, features, out=slope, workspace=room)
    kernels.total_variation(features, out=value, workspace=room)
    for missing in ({"out": out}, {"workspace": room}, {}):
        with pytest.raises(GantkError, match="captured into a graph") as refused:
            kernels.gram_matrix(features, **missing)
        assert refused.value.hint == "give `out` and `workspace`, made before"
    cuda.capturing = False
    assert cuda.allocated == held
    assert error(out.numpy(), gram(given)) < 2e-6
    np.testing.assert_allclose(value.numpy(), variation(given, "l1", 0)[0], rtol=1e-5)


def test_the_default_stream_is_captured_with_one_that_it_would_wait_for(cuda: FakeCuda) -> None:
    """CUDA says so by an error; memory of that stream is neither taken nor given back meanwhile."""
    features = kernels.to_device(numbers(1, 40, 8, 9))
    garbage = [kernels.gram_matrix(features)]
    before = dict(cuda.allocated)
    with cuda.failing("cuStreamIsCapturing", "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT"):
        with pytest.raises(GantkError, match="captured into a graph"):
            kernels.gram_matrix(features)
        garbage.clear()
        gc.collect()
        assert cuda.allocated == before
    del features
    gc.collect()
    assert not cuda.allocated


def test_a_stream_that_is_gone_is_an_error(cuda: FakeCuda) -> None:
    features = kernels.to_device(numbers(1, 40, 8, 9))
    with (
        cuda.failing("cuStreamIsCapturing", "CUDA_ERROR_INVALID_HANDLE"),
        pytest.raises(GantkError, match="INVALID_HANDLE"),
    ):
        kernels.gram_matrix(features)


def test_the_real_bindings_take_what_the_fake_was_given(cuda: FakeCuda) -> None:
    """All arguments of all calls, shown to the real module, which gets as far as missing the driver."""
    from cuda.bindings import driver as fake
    from fake_gpu import real

    assert fake is cuda
    features, target = (
        kernels.to_device(numbers(1, 70, 8, 8), stream=0x6000),
        kernels.to_device(numbers(70, 70)),
    )
    kernels.style_loss([features], [target], [1.0], with_gradient=True, stream=STREAM)
    with cuda.failing("cuMemAllocAsync"), pytest.raises(GantkError):
        kernels.gram_matrix(features)
    interface = features.__cuda_array_interface__
    kernels.gram_matrix(Claimed(**{"shape": interface["shape"], "address": interface["data"][0]})).numpy()
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        pytest.skip("there is a driver here, which would do what it is told")
    seen = set()
    for name, arguments in cuda.calls:
        with pytest.raises(RuntimeError, match="NVIDIA driver library"):
            getattr(real, name)(*arguments)
        seen.add(name)
    assert len(seen) >= 20
    assert dlpack._held == {}

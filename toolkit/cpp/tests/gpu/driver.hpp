// SPDX-License-Identifier: Apache-2.0
// What the stand-in for the driver has beside the driver's own functions.
#pragma once

#include <cuda.h>

#include <cstddef>

extern "C" {

// A kernel, which does `function(data)` on a stream; `queued(data)` is done when the stream gets it, by itself or in a
// graph.
CUresult stand_in_launch(CUstream stream, CUhostFn function, void* data, CUhostFn queued = nullptr);

// How many things were handed out and not given back.
std::size_t stand_in_live();

// Waits, once, until as many threads are here as STAND_IN_TOGETHER says; tells where they do not come.
void stand_in_meet();
}

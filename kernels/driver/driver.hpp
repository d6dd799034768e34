// SPDX-License-Identifier: Apache-2.0
// Puts planned launches on a stream through the CUDA driver, which is looked for at run time: the same
// library loads on machines without a GPU. The twin of `toolkit/gantk/kernels/launcher.py`.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <vector>

#include <cuda.h>

#include <gantk/kernels/launch.hpp>

namespace gantk::driver {

// The driver is missing or too old, or has refused something; the text says what.
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// What a plan wants to know of the GPU of the calling thread's context.
const kernels::Device& current_device();

// Enqueues launches, one after the other, on a stream of the calling thread's context. Nothing is waited for.
// The code of a unit is loaded at its first launch.
void launch(const std::vector<kernels::Launch>& launches, CUstream stream);

// The largest power of two, up to 16, that divides an address.
inline std::int32_t alignment_of(const void* address) {
    const auto bits = reinterpret_cast<std::uintptr_t>(address) | 16u;
    return static_cast<std::int32_t>(bits & (~bits + 1));
}

inline std::uint64_t address_of(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

}  // namespace gantk::driver

// SPDX-License-Identifier: Apache-2.0
// How tasks get memory of their own: only those that run at the same time need any.
#pragma once

#include <cstddef>

namespace gantk::cpu {

// Memory that a task takes while it runs; on several threads at a time. Aligned to 64; null where there is
// none.
struct Memory {
    void* (*take)(void* owner, std::size_t bytes);
    void (*give)(void* owner, void* block);
    void* owner;
};

}  // namespace gantk::cpu

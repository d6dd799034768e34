// SPDX-License-Identifier: Apache-2.0
// Threads and memory that show what kernels get wrong with them.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstring>
#include <new>

#include "memory.hpp"
#include "parallel.hpp"

inline void run_backwards(void*, gantk::cpu::Task task, std::size_t count, void* data) {
    for (std::size_t index = count; index-- > 0;) task(data, index);
}

constexpr gantk::cpu::Parallel kBackwards{run_backwards, nullptr};

// Blocks that end where they end, hold no zeros, and are counted.
inline std::atomic<int> taken{0};
constexpr gantk::cpu::Memory kMemory{[](void*, std::size_t bytes) -> void* {
                                         ++taken;
                                         return std::memset(::operator new(bytes, std::align_val_t{64}), 0xff, bytes);
                                     },
                                     [](void*, void* block) {
                                         --taken;
                                         ::operator delete(block, std::align_val_t{64});
                                     },
                                     nullptr};
constexpr gantk::cpu::Memory kNone{[](void*, std::size_t) -> void* { return nullptr; }, nullptr, nullptr};

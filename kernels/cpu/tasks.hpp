// SPDX-License-Identifier: Apache-2.0
// Tasks with memory of their own.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>

#include "memory.hpp"
#include "parallel.hpp"

namespace gantk::cpu {

// Calls `function(i, block)` for each i below `count`; each thread has a block of so many bytes, which the next call
// may find as this one left it.
//
// Throws std::bad_alloc where there is no memory; some calls are then not made.
template <typename Function>
void for_each_in_memory(const Parallel& parallel, const Memory& memory, std::int64_t count, std::size_t bytes,
                        const Function& function) {
    constexpr std::int64_t kTasks = 64;  // A thread's first does all of its work.
    std::atomic<std::int64_t> next{0};
    std::atomic<bool> failed{false};
    for_each(parallel, std::min(kTasks, count), [&](std::int64_t) {
        void* own = nullptr;
        for (std::int64_t index; (index = next.fetch_add(1)) < count;) {
            if (own == nullptr) own = memory.take(memory.owner, bytes);
            if (own == nullptr) {
                failed = true;
                return;
            }
            function(index, own);
        }
        if (own != nullptr) memory.give(memory.owner, own);
    });
    if (failed) throw std::bad_alloc();
}

}  // namespace gantk::cpu

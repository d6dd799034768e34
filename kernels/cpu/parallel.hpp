// SPDX-License-Identifier: Apache-2.0
// How kernels use an application's threads: they hand over tasks and wait until all are done.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gantk::cpu {

using Task = void (*)(void* data, std::size_t index);

// Calls `task(data, i)` for each i below `count`, in any order, on any threads.
struct Parallel {
    void (*run)(void* pool, Task task, std::size_t count, void* data);
    void* pool;
};

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// What a task computes never depends on the number of threads, so that results are the same bits with any.
template <typename Function>
void for_each(const Parallel& parallel, std::int64_t count, const Function& function) {
    const auto task = [](void* data, std::size_t index) {
        (*static_cast<const Function*>(data))(static_cast<std::int64_t>(index));
    };
    parallel.run(parallel.pool, task, static_cast<std::size_t>(count), const_cast<Function*>(&function));
}

}  // namespace gantk::cpu

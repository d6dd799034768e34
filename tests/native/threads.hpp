// SPDX-License-Identifier: Apache-2.0
// An application's threads, for kernels under test.
#pragma once

#include <cstddef>
#include <thread>
#include <vector>

#include "parallel.hpp"

// Tasks are dealt to three threads in turn; some run before others that were handed over earlier.
inline void deal(void*, gantk::cpu::Task task, std::size_t count, void* data) {
    std::vector<std::thread> threads;
    for (std::size_t first = 0; first < 3; ++first)
        threads.emplace_back([=] {
            for (std::size_t index = first; index < count; index += 3) task(data, index);
        });
    for (std::thread& thread : threads) thread.join();
}

constexpr gantk::cpu::Parallel kThreads{deal, nullptr};

// SPDX-License-Identifier: Apache-2.0
// Memory that convolutions work in, in pages of 2 MiB where Linux has them: frequencies lie far apart, and pages of
// 4 KiB would have to be looked up again and again.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "../cpu/memory.hpp"

namespace gantk::onnxruntime {

struct Free {
    void operator()(void* block) const noexcept;
};
using Block = std::unique_ptr<void, Free>;

// Aligned to 64; null where there is none.
Block allocate(std::size_t bytes) noexcept;

// Blocks that tasks of all sessions take in turns. There are as many as were ever in use at a time, each as large as
// the largest that was asked for in its place, and they go when the last owner does.
class Buffers {
  public:
    static std::shared_ptr<Buffers> shared();

    cpu::Memory memory() { return {take, give, this}; }

  private:
    struct Buffer {
        Block block;
        std::size_t bytes = 0;
    };

    static void* take(void* owner, std::size_t bytes) noexcept;
    static void give(void* owner, void* block) noexcept;
    Buffer find(std::size_t bytes);

    std::mutex mutex_;
    std::vector<Buffer> free_, used_;
};

}  // namespace gantk::onnxruntime

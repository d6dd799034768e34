// SPDX-License-Identifier: Apache-2.0
#include "buffers.hpp"

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdlib>

namespace gantk::onnxruntime {
namespace {

constexpr std::size_t kAlignment = 64, kHugePage = std::size_t{2} << 20;

}  // namespace

void Free::operator()(void* block) const noexcept { std::free(block); }

Block allocate(std::size_t bytes) noexcept {
    void* block = nullptr;
    if (::posix_memalign(&block, bytes < kHugePage ? kAlignment : kHugePage, bytes) != 0) return nullptr;
#ifdef __linux__
    if (bytes >= kHugePage) ::madvise(block, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);  // It may well refuse.
#endif
    return Block(block);
}

std::shared_ptr<Buffers> Buffers::shared() {
    static std::mutex mutex;
    static std::weak_ptr<Buffers> kept;
    const std::lock_guard lock(mutex);
    std::shared_ptr<Buffers> buffers = kept.lock();
    if (!buffers) kept = buffers = std::make_shared<Buffers>();
    return buffers;
}

// The largest that is free; one that is too small makes room for another.
Buffers::Buffer Buffers::find(std::size_t bytes) {
    Buffer found;
    if (!free_.empty()) {
        const auto largest = std::max_element(free_.begin(), free_.end(), [](const Buffer& a, const Buffer& b) {
            return a.bytes < b.bytes;
        });
        found = std::move(*largest);
        free_.erase(largest);
    }
    if (found.bytes < bytes) {
        found.block.reset();
        found = {allocate(bytes), bytes};
    }
    return found;
}

void* Buffers::take(void* owner, std::size_t bytes) noexcept try {
    auto& self = *static_cast<Buffers*>(owner);
    const std::lock_guard lock(self.mutex_);
    self.used_.reserve(self.used_.size() + 1);
    self.free_.reserve(self.used_.size() + self.free_.size() + 1);  // So that the way back cannot fail.
    Buffer found = self.find(bytes);
    void* const block = found.block.get();
    if (block != nullptr) self.used_.push_back(std::move(found));
    return block;
} catch (...) {
    return nullptr;
}

void Buffers::give(void* owner, void* block) noexcept {
    auto& self = *static_cast<Buffers*>(owner);
    const std::lock_guard lock(self.mutex_);
    const auto given = std::find_if(self.used_.begin(), self.used_.end(),
                                    [&](const Buffer& buffer) { return buffer.block.get() == block; });
    self.free_.push_back(std::move(*given));
    self.used_.erase(given);
}

}  // namespace gantk::onnxruntime

// SPDX-License-Identifier: Apache-2.0
// Weights in the order that a kernel wants.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>

#include "../cpu/memory.hpp"
#include "buffers.hpp"

namespace gantk::onnxruntime {

class Packed {
  public:
    // `pack(data)` fills the memory.
    template <typename Pack>
    Packed(std::size_t bytes, const cpu::Memory& memory, const Pack& pack)
        : memory_(memory), data_(memory.take(memory.owner, bytes)) {
        if (data_ == nullptr)
            throw std::runtime_error("there is no memory for weights of " + std::to_string(bytes) + " bytes");
        pack(data_);
    }
    Packed(const Packed&) = delete;
    ~Packed() { memory_.give(memory_.owner, data_); }

    const void* data() const { return data_; }

  private:
    cpu::Memory memory_;
    void* data_;
};

// Weights that a file stores, packed by the first call that wants them so.
class Stored {
  public:
    // Those of one place that are packed in one way are one, as long as anybody has them: a convolution and its
    // gradient share them. Their bytes count too: a session gives weights back before its kernels, and those of
    // another one may come to lie there in between.
    static std::shared_ptr<Stored> at(std::string_view weights, const void* way) {
        static std::mutex mutex;
        static std::map<std::tuple<const char*, std::size_t, const void*>, std::weak_ptr<Stored>> known;
        const std::size_t content = std::hash<std::string_view>()(weights);
        const std::lock_guard lock(mutex);
        for (auto each = known.begin(); each != known.end();)
            each = each->second.expired() ? known.erase(each) : std::next(each);
        auto& entry = known[{weights.data(), content, way}];
        std::shared_ptr<Stored> stored = entry.lock();
        if (!stored) entry = stored = std::make_shared<Stored>();
        return stored;
    }

    // `pack(memory)` makes what is kept.
    template <typename Pack>
    const void* data(const Pack& pack) {
        constexpr cpu::Memory kOwn{[](void*, std::size_t bytes) { return allocate(bytes).release(); },
                                   [](void*, void* block) { Free{}(block); }, nullptr};
        std::call_once(once_, [&] { packed_ = pack(kOwn); });
        return packed_->data();
    }

  private:
    std::once_flag once_;
    std::unique_ptr<Packed> packed_;
};

}  // namespace gantk::onnxruntime

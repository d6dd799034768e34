// SPDX-License-Identifier: Apache-2.0
// An application's threads, for kernels under test.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <thread>
#include <vector>

#include "parallel.hpp"

// Tasks are dealt to three threads in turn; some run before others that were handed over earlier. The threads stay:
// under AddressSanitizer to make them anew takes longer than what they do.
class Threads {
  public:
    Threads() {
        for (std::size_t first = 0; first < kCount; ++first) threads_.emplace_back([this, first] { work(first); });
    }

    ~Threads() {
        post(nullptr, 0, nullptr);
        for (std::thread& thread : threads_) thread.join();
    }

    void run(gantk::cpu::Task task, std::size_t count, void* data) {
        post(task, count, data);
        std::unique_lock lock(mutex_);
        done_.wait(lock, [this] { return busy_ == 0; });
    }

  private:
    static constexpr std::size_t kCount = 3;

    // Without a task the threads end.
    void post(gantk::cpu::Task task, std::size_t count, void* data) {
        {
            const std::lock_guard lock(mutex_);
            task_ = task, count_ = count, data_ = data, busy_ = kCount, ++round_;
        }
        posted_.notify_all();
    }

    void work(std::size_t first) {
        for (std::size_t seen = 0;;) {
            std::unique_lock lock(mutex_);
            posted_.wait(lock, [&] { return round_ != seen; });
            seen = round_;
            const auto task = task_;
            const auto count = count_;
            void* const data = data_;
            lock.unlock();
            if (task == nullptr) return;
            for (std::size_t index = first; index < count; index += kCount) task(data, index);
            lock.lock();
            if (--busy_ == 0) done_.notify_one();
        }
    }

    std::mutex mutex_;
    std::condition_variable posted_, done_;
    gantk::cpu::Task task_ = nullptr;
    void* data_ = nullptr;
    std::size_t count_ = 0, busy_ = 0, round_ = 0;
    std::vector<std::thread> threads_;
};

inline void deal(void*, gantk::cpu::Task task, std::size_t count, void* data) {
    static Threads threads;
    threads.run(task, count, data);
}

constexpr gantk::cpu::Parallel kThreads{deal, nullptr};

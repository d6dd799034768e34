// SPDX-License-Identifier: Apache-2.0
#include "tensorrt/kernel_cache.hpp"

#include <algorithm>
#include <cctype>

#include "cuda.hpp"
#include "file.hpp"
#include "gantk/error.hpp"
#include "sha256.hpp"
#include "tensorrt/library.hpp"

namespace gantk::tensorrt {
namespace {

// As `gantk.runtime.backends.kernel_cache` has them: what no cache of an engine comes near; of how many shapes kernels
// are written as soon as they are compiled, for each writes what all before it came to.
constexpr std::int64_t size_limit_bytes = std::int64_t{1} << 28;
constexpr std::size_t at_once = 16;

constexpr std::size_t hash_bytes = 32;  // before the library's own

// A name of the GPU that a file's may have in it.
std::string file_name_of(const std::string& gpu) {
  std::string name;
  for (const char each : gpu) {
    const auto code = static_cast<unsigned char>(each);
    if (code < 128 && std::isalnum(code) != 0) name += each;
    else if (!name.ends_with('-')) name += '-';
  }
  return name;
}

std::string hash_of(std::string_view data) {
  Sha256 hash;
  hash.add(std::as_bytes(std::span(data)));
  return hash.bytes();
}

}  // namespace

KernelCache::KernelCache(nvinfer1::ICudaEngine& engine, const std::string& sha256)
    : path_(tidy(cache_folder() + "/compiled/" + sha256 + "-" + library().version + "-" + cuda::gpu_target() + "-" +
                 file_name_of(cuda::gpu_name()) + ".kernels")),
      configuration_(engine.createRuntimeConfig()) {
  if (configuration_ != nullptr) cache_.reset(configuration_->createRuntimeCache());
  if (cache_ != nullptr) read();
}

// The library sees no bytes whose hash is another, and itself rejects those of another GPU, driver or release.
void KernelCache::read() {
  try {
    const Bytes data = read_bytes(path_, size_limit_bytes);
    if (data.size() <= hash_bytes) return;
    const std::string_view blob = data.text().substr(hash_bytes);
    if (data.text().substr(0, hash_bytes) != hash_of(blob)) return;
    if (cache_->deserialize(blob.data(), blob.size())) known_ = blob;
  } catch (const Error&) {
    // There is none yet.
  }
}

void KernelCache::attach_to(nvinfer1::IRuntimeConfig& configuration) {
  if (cache_ != nullptr) configuration.setRuntimeCache(*cache_);  // If it is refused, kernels are compiled again.
}

void KernelCache::ran(std::span<const TensorView> inputs) {
  const std::lock_guard lock(mutex_);
  const auto are_these = [&](const std::vector<Shape>& shapes) {
    return std::equal(shapes.begin(), shapes.end(), inputs.begin(), inputs.end(),
                      [](const Shape& shape, const TensorView& input) { return shape == input.shape; });
  };
  if (ran_.size() == at_once || std::any_of(ran_.begin(), ran_.end(), are_these)) return;
  auto& shapes = ran_.emplace_back();
  for (const TensorView& input : inputs) shapes.push_back(input.shape);
  write();
}

void KernelCache::save() {
  const std::lock_guard lock(mutex_);
  write();
}

void KernelCache::write() {
  if (cache_ == nullptr) return;
  const std::unique_ptr<nvinfer1::IHostMemory> serialized(cache_->serialize());
  if (serialized == nullptr || serialized->size() == 0) return;
  const std::string_view blob(static_cast<const char*>(serialized->data()), serialized->size());
  if (blob == known_) return;
  try {
    write_text(path_, hash_of(blob).append(blob));
    known_ = blob;
  } catch (const Error&) {
    // The next process compiles them again.
  }
}

}  // namespace gantk::tensorrt

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "gantk/tensor.hpp"

namespace gantk::pictures {

// Decoders of a whole file's contents; `path` is its name in errors.
Tensor decode_png(const std::string& path, const std::string& data);
Tensor decode_jpeg(const std::string& path, const std::string& data);

[[noreturn]] void fail_reading(const std::string& path, const std::string& reason);

// Throws Error where an array is in GPU memory, which is not read here.
void check_in_main_memory(const TensorView& array);

// Pixels of a picture of that size; throws Error where there are too many.
Tensor make_pixels(const std::string& path, std::int64_t height, std::int64_t width);

}  // namespace gantk::pictures

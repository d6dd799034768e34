// SPDX-License-Identifier: Apache-2.0
// Pictures from files into tensors and back: the optional library gantk::pictures, over libpng and libjpeg.
// Pixels are uint8[N, H, W, C], red first, 0..255; planes are float32[N, C, H, W].
#pragma once

#include <cstdint>
#include <string>

#include "gantk/export.hpp"
#include "gantk/spec.hpp"
#include "gantk/tensor.hpp"

namespace gantk::pictures {

inline constexpr std::int64_t most_pixels = 100'000'000;  // A file of some kilobytes can declare far more.

// Reads a PNG or JPEG, whatever its name says, as pixels uint8[1, H, W, 3]; what is transparent lies on white. EXIF's
// orientation is not applied. Throws Error where the file is missing, cut, no picture, or declares too many pixels.
GANTK_API Tensor read(const std::string& path);

// Writes one picture, uint8[1, H, W, 1 or 3], as a PNG.
GANTK_API void write(const std::string& path, const TensorView& pixels);

// Pixels as planes whose values go from `low` to `high`.
GANTK_API Tensor to_planes(const TensorView& pixels, double low, double high);

// What a network puts out as pixels: planes by the range of their description, rounded to the nearest, what lies
// outside clipped; pixels as they are. Throws Error where a value is not finite.
GANTK_API Tensor to_pixels(const TensorView& output, const TensorSpec& spec);

// Pixels made smaller, so that the longer side has `longest`, each the mean of what it covers; smaller ones as they
// are.
GANTK_API Tensor reduce(const TensorView& pixels, std::int64_t longest);

// Several pictures in rows on black, in about as many columns as rows, as one: uint8[1, H', W', C].
GANTK_API Tensor grid(const TensorView& pixels, std::int64_t padding = 2);

}  // namespace gantk::pictures

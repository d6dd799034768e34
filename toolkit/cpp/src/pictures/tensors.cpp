// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "formats.hpp"
#include "gantk/error.hpp"
#include "gantk/pictures.hpp"

namespace gantk::pictures {
namespace {

struct Sizes {
  std::int64_t n, h, w, c;
};

const std::uint8_t* check_pixels(const TensorView& pixels) {
  check_in_main_memory(pixels);
  if (pixels.dtype != DType::uint8 || pixels.shape.rank() != 4 || pixels.shape.count() == 0) {
    throw Error("an array " + std::string(name_of(pixels.dtype)) + pixels.shape.text() +
                " is no pixels; uint8[N, H, W, C] is wanted");
  }
  return static_cast<const std::uint8_t*>(pixels.data);
}

Sizes sizes_of(const Shape& shape) { return {shape[0], shape[1], shape[2], shape[3]}; }

// What each of `after` rows covers of `before`, as the first row, and the share of each from there on.
struct Cover {
  std::int64_t first;
  std::vector<float> shares;
};

std::vector<Cover> covers(std::int64_t before, std::int64_t after) {
  std::vector<Cover> found;
  const double scale = static_cast<double>(before) / static_cast<double>(after);
  for (std::int64_t i = 0; i < after; ++i) {
    const double from = static_cast<double>(i) * scale, to = std::min(from + scale, static_cast<double>(before));
    Cover cover{static_cast<std::int64_t>(from), {}};
    for (auto row = static_cast<double>(cover.first); row < to - 1e-9; ++row) {
      cover.shares.push_back(static_cast<float>((std::min(row + 1, to) - std::max(row, from)) / scale));
    }
    found.push_back(cover);
  }
  return found;
}

}  // namespace

void check_in_main_memory(const TensorView& array) {
  if (array.device != Device::cpu) throw Error("the pictures are in GPU memory", {}, "copy them to the CPU first");
}

Tensor to_planes(const TensorView& pixels, double low, double high) {
  const std::uint8_t* from = check_pixels(pixels);
  const auto [n, h, w, c] = sizes_of(pixels.shape);
  Tensor planes(DType::float32, {n, c, h, w});
  const std::span<float> to = planes.values<float>();
  const double scale = (high - low) / 255.0;
  for (std::int64_t picture = 0; picture < n; ++picture) {
    for (std::int64_t i = 0; i < h * w; ++i) {
      for (std::int64_t channel = 0; channel < c; ++channel) {
        const std::uint8_t value = from[(picture * h * w + i) * c + channel];
        to[static_cast<std::size_t>((picture * c + channel) * h * w + i)] = static_cast<float>(low + scale * value);
      }
    }
  }
  return planes;
}

Tensor to_pixels(const TensorView& output, const TensorSpec& spec) {
  if (output.dtype == DType::uint8) {
    check_pixels(output);
    Tensor copy(DType::uint8, output.shape);
    std::memcpy(copy.mutable_view().data, output.data, output.size_bytes());
    return copy;
  }
  check_in_main_memory(output);
  if (output.dtype != DType::float32 || output.shape.rank() != 4 || spec.layout != "NCHW") {
    throw Error("`" + spec.text() + "` is no picture that gantk turns into pixels", spec.name);
  }
  const auto [low, high] = spec.range.value_or(std::pair(-1.0, 1.0));
  const Shape& shape = output.shape;
  const auto n = shape[0], c = shape[1], h = shape[2], w = shape[3];
  const auto* from = static_cast<const float*>(output.data);
  Tensor pixels(DType::uint8, {n, h, w, c});
  const std::span<std::uint8_t> to = pixels.values<std::uint8_t>();
  const auto scale = static_cast<float>(255.0 / (high - low)), zero = static_cast<float>(low);
  for (std::int64_t i = 0; i < n * c * h * w; ++i) {
    const float value = (from[i] - zero) * scale;
    if (!std::isfinite(value)) {
      throw Error("the pictures have values that are NaN or infinite; they would be black or noise", spec.name);
    }
    const std::int64_t place = i % (h * w), channel = i / (h * w) % c, picture = i / (h * w * c);
    to[static_cast<std::size_t>((picture * h * w + place) * c + channel)] =
        static_cast<std::uint8_t>(std::clamp(std::nearbyint(value), 0.0f, 255.0f));
  }
  return pixels;
}

Tensor reduce(const TensorView& pixels, std::int64_t longest) {
  const std::uint8_t* from = check_pixels(pixels);
  const auto [n, h, w, c] = sizes_of(pixels.shape);
  const double scale = std::min(1.0, static_cast<double>(longest) / static_cast<double>(std::max(h, w)));
  const auto scaled = [&](std::int64_t size) {
    return std::max<std::int64_t>(1, std::llround(static_cast<double>(size) * scale));
  };
  const auto rows = covers(h, scaled(h)), columns = covers(w, scaled(w));
  Tensor reduced(DType::uint8, {n, scaled(h), scaled(w), c});
  std::uint8_t* to = reduced.values<std::uint8_t>().data();
  for (std::int64_t picture = 0; picture < n; ++picture, from += h * w * c) {
    for (const Cover& row : rows) {
      for (const Cover& column : columns) {
        for (std::int64_t channel = 0; channel < c; ++channel) {
          float sum = 0;
          for (std::size_t y = 0; y < row.shares.size(); ++y) {
            for (std::size_t x = 0; x < column.shares.size(); ++x) {
              const auto at =
                  ((row.first + static_cast<std::int64_t>(y)) * w + column.first + static_cast<std::int64_t>(x)) * c +
                  channel;
              sum += row.shares[y] * column.shares[x] * static_cast<float>(from[at]);
            }
          }
          *to++ = static_cast<std::uint8_t>(std::clamp(std::nearbyint(sum), 0.0f, 255.0f));
        }
      }
    }
  }
  return reduced;
}

Tensor grid(const TensorView& pixels, std::int64_t padding) {
  const std::uint8_t* from = check_pixels(pixels);
  if (padding < 0) {
    throw Error("a padding of " + std::to_string(padding) + " pixels; at least 0 is wanted", "padding", {},
                ErrorKind::usage);
  }
  const auto [n, h, w, c] = sizes_of(pixels.shape);
  const auto columns = static_cast<std::int64_t>(std::ceil(std::sqrt(static_cast<double>(n))));
  const std::int64_t rows = (n + columns - 1) / columns;
  Tensor sheet(DType::uint8, {1, rows * (h + padding) + padding, columns * (w + padding) + padding, c});
  const std::span<std::uint8_t> to = sheet.values<std::uint8_t>();
  std::fill(to.begin(), to.end(), std::uint8_t{0});
  for (std::int64_t i = 0; i < n * h; ++i) {
    const std::int64_t picture = i / h;
    const std::int64_t y = padding + picture / columns * (h + padding) + i % h;
    const std::int64_t x = padding + picture % columns * (w + padding);
    std::copy_n(from + i * w * c, w * c, to.begin() + (y * sheet.shape()[2] + x) * c);
  }
  return sheet;
}

}  // namespace gantk::pictures

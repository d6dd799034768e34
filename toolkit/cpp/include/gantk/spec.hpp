// SPDX-License-Identifier: Apache-2.0
// The description of one tensor that enters or leaves a network.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "gantk/export.hpp"
#include "gantk/tensor.hpp"

namespace gantk {

// A count, or a symbol such as "N" that stands for a size chosen at run time.
using Size = std::variant<std::int64_t, std::string>;

struct GANTK_API TensorSpec {
  std::string name;  // of the tensor in the graph
  DType dtype = DType::float32;
  std::vector<Size> shape = {};
  std::optional<std::pair<double, double>> range = {};  // the smallest and largest meaningful value
  std::string layout = {};                              // "NC", "NCHW", "NHWC", or empty for what is not a picture
  std::int64_t smallest = 1;                            // the least height and width of a picture whose size is free

  // Where a picture has its height and its width; nothing for any other tensor.
  std::optional<std::pair<std::size_t, std::size_t>> picture_axes() const;

  std::string text() const;  // e.g. "picture: uint8[N x H x W x 3]"
};

}  // namespace gantk

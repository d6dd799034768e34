// SPDX-License-Identifier: Apache-2.0
// Arrays in NumPy's file format (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).
#pragma once

#include <string>
#include <string_view>

#include "gantk/tensor.hpp"

namespace gantk::npy {

// The contents of any file; throws Error where it cannot be read.
std::string read_file(const std::string& path);

// Reads a file whose array is contiguous in C order and of a type that gantk has; throws Error about any other.
Tensor read(const std::string& path);

// The same of a file's contents; `path` is its name in errors.
Tensor parse(const std::string& path, std::string_view data);

// Readers see the old file or the new one, whole.
void write(const std::string& path, const TensorView& view);

// The whole file as text.
std::string format(const TensorView& view);

}  // namespace gantk::npy

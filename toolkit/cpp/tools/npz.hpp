// SPDX-License-Identifier: Apache-2.0
// Several arrays in one file, as numpy.savez writes them: a ZIP archive whose members are stored as they are.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "gantk/tensor.hpp"

namespace gantk::npz {

// Reads every member; throws Error where the file is no such archive, or a member is compressed.
std::vector<std::pair<std::string, Tensor>> read(const std::string& path);

void write(const std::string& path, const std::vector<std::pair<std::string, TensorView>>& arrays);

}  // namespace gantk::npz

// SPDX-License-Identifier: Apache-2.0
// What must be known of an ONNX file before a library sees it: the twin of gantk/runtime/onnx_file.py.
#pragma once

#include <cstddef>
#include <set>
#include <span>
#include <string>

namespace gantk {

// Refuses a file of a bundle whose weights lie in other files: nobody has checked the hashes of these, and some
// releases of ONNX Runtime read any file of the machine. Throws Error where they do, or where it is not ONNX.
void refuse_external(std::span<const std::byte> file, const std::string& where);

// The types of a file's nodes, those of its functions included: `operators_of` of onnxruntime_settings.py. What cannot
// be read has none.
std::set<std::string> operators_of(std::span<const std::byte> file);

}  // namespace gantk

// SPDX-License-Identifier: Apache-2.0
// The name, length and hash of a file in a bundle.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "gantk/manifest.hpp"
#include "json.hpp"

namespace gantk {

inline constexpr std::string_view manifest_name = "manifest.json";

// Whether a text names a file and no folder: it has no slash and begins with a letter, a digit or _, so that "..", hidden
// files and roots are none.
bool is_part(std::string_view text);

FileRef read_file_ref(const Json& data);
std::optional<FileRef> take_file(const Json& data, const char* key);

// Refuses what is no hash; `what` says whose it should be.
void check_sha256(const std::string& text, const std::string& what);

}  // namespace gantk

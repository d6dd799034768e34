// SPDX-License-Identifier: Apache-2.0
// Reading files whole, with every failure an Error that names the file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "gantk/bundle.hpp"

namespace gantk {

class Sha256;

// A path without what says nothing: "a//./b/" is "a/b". Parts ".." stay, for a link may lie before them.
std::string tidy(const std::string& path);

enum class FileKind { missing, file, folder, other };
FileKind kind_of(const std::string& path, const std::string& shown);  // throws Error, about `shown`, where unknown

bool leads_inside(const std::string& path, const std::string& folder);  // with links followed

// Reads a regular file of at most `limit_bytes`, where it is larger with an error that has `hint`; every byte read also
// goes to `hash`, where there is one.
Bytes read_bytes(const std::string& path, std::int64_t limit_bytes, Sha256* hash = nullptr,
                 const std::string& hint = "");

// Writes a whole file, making its folders: readers see the old file or the new one, also when the machine dies.
void write_text(const std::string& path, const std::string& text);

// The user's, as `gantk.files.cache_folder` has it. The environment is read once, when the first engine is opened: who
// changes it later, in whatever thread, is not in the way.
const std::string& cache_folder();

}  // namespace gantk

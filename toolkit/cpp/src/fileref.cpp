// SPDX-License-Identifier: Apache-2.0
#include "fileref.hpp"

#include <algorithm>

namespace gantk {
namespace {

constexpr std::size_t most_parts = 4;  // of a path

bool is_path(std::string_view path) {
  std::size_t parts = 0;
  for (std::size_t at = 0; at <= path.size(); ++parts) {
    const std::size_t end = std::min(path.find('/', at), path.size());
    if (!is_part(path.substr(at, end - at))) return false;
    at = end + 1;
  }
  return parts <= most_parts && path != manifest_name;
}

bool is_sha256(std::string_view text) {
  return text.size() == 64 &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace

bool is_part(std::string_view text) {
  const auto is_word = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  };
  return !text.empty() && text.size() <= 100 && is_word(text[0]) &&
         std::all_of(text.begin(), text.end(), [&](char c) { return is_word(c) || c == '.' || c == '+' || c == '-'; });
}

FileRef read_file_ref(const Json& data) {
  FileRef ref{take_string(data, "path"), take_string(data, "sha256"), take_integer(data, "size_bytes")};
  if (!is_path(ref.path)) throw Error(repr(ref.path) + " is not the path of a file inside a bundle");
  check_sha256(ref.sha256, "`" + ref.path + "`");
  if (ref.size_bytes < 0) throw Error("`" + ref.path + "` cannot have " + std::to_string(ref.size_bytes) + " bytes");
  return ref;
}

std::optional<FileRef> take_file(const Json& data, const char* key) {
  const Json* value = take_optional_object(data, key);
  return value == nullptr ? std::nullopt : std::optional(read_file_ref(*value));
}

void check_sha256(const std::string& text, const std::string& what) {
  if (!is_sha256(text)) {
    throw Error("the sha256 of " + what + " is " + repr(first(text, 100)) + "; 64 hexadecimal digits are wanted");
  }
}

}  // namespace gantk

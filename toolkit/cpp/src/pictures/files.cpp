// SPDX-License-Identifier: Apache-2.0
#include <cerrno>
#include <cstring>
#include <fstream>
#include <ios>
#include <iterator>

#include "formats.hpp"
#include "gantk/error.hpp"
#include "gantk/pictures.hpp"

namespace gantk::pictures {
namespace {

std::string read_bytes(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  try {
    if (stream) return {std::istreambuf_iterator<char>(stream), {}};
  } catch (const std::ios_base::failure&) {  // A folder can be opened, and not read.
  }
  throw Error("cannot read `" + path + "`: " + std::strerror(errno), path, "check the path");
}

}  // namespace

Tensor read(const std::string& path) {
  const std::string data = read_bytes(path);
  if (data.starts_with("\x89PNG")) return decode_png(path, data);
  if (data.starts_with("\xFF\xD8")) return decode_jpeg(path, data);
  fail_reading(path, "its content is neither PNG nor JPEG");
}

void fail_reading(const std::string& path, const std::string& reason) {
  throw Error("`" + path + "` cannot be read as a picture: " + reason, path);
}

Tensor make_pixels(const std::string& path, std::int64_t height, std::int64_t width) {
  if (height * width > most_pixels) {
    fail_reading(path, "it declares " + std::to_string(width) + " x " + std::to_string(height) + " pixels; at most " +
                           std::to_string(most_pixels) + " are decoded");
  }
  return Tensor(DType::uint8, {1, height, width, 3});
}

}  // namespace gantk::pictures

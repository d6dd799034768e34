// SPDX-License-Identifier: Apache-2.0
#include "npy.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <ios>
#include <iterator>
#include <utility>
#include <vector>

#include "gantk/error.hpp"

namespace gantk::npy {
namespace {

constexpr std::string_view magic = "\x93NUMPY";
constexpr std::size_t alignment = 64;

// NumPy's codes, on machines whose bytes are little-endian; it has no bfloat16.
constexpr std::array<std::pair<std::string_view, DType>, 8> codes = {{
    {"<f4", DType::float32},
    {"<f2", DType::float16},
    {"<f8", DType::float64},
    {"|u1", DType::uint8},
    {"|i1", DType::int8},
    {"<i4", DType::int32},
    {"<i8", DType::int64},
    {"|b1", DType::boolean},
}};

[[noreturn]] void fail(const std::string& path, const std::string& reason) {
  throw Error("`" + path + "` is not an .npy file: " + reason, path, "numpy.save(FILE, array.copy()) writes one");
}

DType dtype_of_code(const std::string& path, const std::string& code) {
  for (const auto& [known, dtype] : codes) {
    if (known == code) return dtype;
  }
  fail(path, "its type is " + code + ", which gantk does not know");
}

// The value of a key in the header, which is a Python literal that NumPy wrote: up to `end`.
std::string value_of(const std::string& path, const std::string& header, const std::string& key, char end) {
  const std::string label = "'" + key + "': ";
  const std::size_t begin = header.find(label);
  const std::size_t until = begin == header.npos ? begin : header.find(end, begin + label.size() + 1);
  if (until == header.npos) fail(path, "its header has no " + key);
  return header.substr(begin + label.size(), until - begin - label.size());
}

Shape parse_shape(const std::string& path, const std::string& text) {
  std::vector<std::int64_t> sizes;
  for (std::size_t at = text.find_first_of("0123456789"); at != text.npos;) {
    const std::size_t end = std::min(text.find_first_not_of("0123456789", at), text.size());
    if (end - at > 18) fail(path, "its shape is " + text);
    sizes.push_back(std::stoll(text.substr(at, end - at)));
    at = text.find_first_of("0123456789", end);
  }
  return Shape(sizes);
}

}  // namespace

std::string read_file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  try {
    if (stream) return {std::istreambuf_iterator<char>(stream), {}};
  } catch (const std::ios_base::failure&) {  // A folder can be opened, and not read.
  }
  throw Error("cannot read `" + path + "`: " + std::strerror(errno), path, "check the path");
}

Tensor read(const std::string& path) { return parse(path, read_file(path)); }

Tensor parse(const std::string& path, std::string_view data) {
  if (data.size() < 12 || !data.starts_with(magic)) fail(path, "it does not begin like one");
  const bool is_long = data[6] >= 2;
  std::uint32_t length = 0;
  std::memcpy(&length, data.data() + 8, is_long ? 4 : 2);
  const std::size_t begin = is_long ? 12 : 10;
  if (data.size() - begin < length) fail(path, "it is cut short");
  const std::string header(data.substr(begin, length));
  const DType dtype = dtype_of_code(path, value_of(path, header, "descr", '\'').substr(1));
  const Shape shape = parse_shape(path, value_of(path, header, "shape", ')'));
  if (value_of(path, header, "fortran_order", ',') == "True" && shape.rank() > 1) fail(path, "it is in Fortran order");
  // Before anything of that size is allocated.
  if (data.size() - begin - length != static_cast<std::size_t>(shape.count()) * bytes_of(dtype)) {
    fail(path, "its length is not that of its shape");
  }
  Tensor tensor(dtype, shape);
  std::memcpy(tensor.mutable_view().data, data.data() + begin + length, data.size() - begin - length);
  return tensor;
}

std::string format(const TensorView& view) {
  std::string code = "<V2";  // As NumPy shows a type that it does not know.
  for (const auto& [known, dtype] : codes) {
    if (dtype == view.dtype) code = known;
  }
  std::string sizes;
  for (const std::int64_t size : view.shape.sizes()) sizes += std::to_string(size) + ", ";
  if (view.shape.rank() > 1) sizes.erase(sizes.size() - 2);
  else if (view.shape.rank() == 1) sizes.erase(sizes.size() - 1);
  std::string header = "{'descr': '" + code + "', 'fortran_order': False, 'shape': (" + sizes + "), }";
  const std::size_t prefix = magic.size() + 4;
  header.resize((prefix + header.size() + 1 + alignment - 1) / alignment * alignment - prefix - 1, ' ');
  header += '\n';
  std::string file(magic);
  file += {'\x01', '\x00', static_cast<char>(header.size() & 255), static_cast<char>(header.size() >> 8)};
  file += header;
  file.append(static_cast<const char*>(view.data), view.size_bytes());
  return file;
}

void write(const std::string& path, const TensorView& view) {
  const std::filesystem::path target(path);
  const std::string name = "." + target.filename().string() + "." + std::to_string(::getpid()) + ".partial";
  const std::string partial = target.parent_path() / name;
  std::ofstream stream(partial, std::ios::binary | std::ios::trunc);
  stream << format(view);
  stream.close();
  if (stream && std::rename(partial.c_str(), path.c_str()) == 0) return;
  const int fault = errno;
  std::remove(partial.c_str());
  throw Error("cannot write `" + path + "`: " + std::strerror(fault), path);
}

}  // namespace gantk::npy

// SPDX-License-Identifier: Apache-2.0
// The format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.7, 4.3.12 and 4.3.16.
#include "npz.hpp"

#include <cstdint>
#include <cstring>
#include <fstream>

#include "gantk/error.hpp"
#include "npy.hpp"

namespace gantk::npz {
namespace {

constexpr std::uint32_t local_mark = 0x04034B50, central_mark = 0x02014B50, end_mark = 0x06054B50;
constexpr std::size_t central_bytes = 46, local_bytes = 30, end_bytes = 22;
constexpr std::uint32_t size_limit = 0xFFFFFFFF;  // Larger members want ZIP64.

[[noreturn]] void fail(const std::string& path, const std::string& reason) {
  throw Error("`" + path + "` is not an .npz file: " + reason, path, "numpy.savez(FILE, **arrays) writes one");
}

// A little-endian number of `Int`'s size at a place that must lie inside.
template <class Int>
Int number(const std::string& path, const std::string& data, std::size_t at) {
  Int value = 0;
  if (at > data.size() || data.size() - at < sizeof value) fail(path, "it is cut short");
  std::memcpy(&value, data.data() + at, sizeof value);
  return value;
}

template <class Int>
void put(std::string& data, Int value) {
  data.append(reinterpret_cast<const char*>(&value), sizeof value);
}

std::string part(const std::string& path, const std::string& data, std::size_t at, std::size_t size) {
  if (at > data.size() || data.size() - at < size) fail(path, "it is cut short");
  return data.substr(at, size);
}

// CRC-32 of ISO 3309, bit by bit: it is a small part of what writing a file costs.
std::uint32_t crc32(const std::string& data) {
  std::uint32_t crc = ~0u;
  for (const char byte : data) {
    crc ^= static_cast<unsigned char>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (0xEDB88320u & (0u - (crc & 1)));
  }
  return ~crc;
}

std::size_t find_end(const std::string& path, const std::string& data) {
  for (std::size_t at = data.size() < end_bytes ? 0 : data.size() - end_bytes + 1; at-- > 0;) {
    if (number<std::uint32_t>(path, data, at) == end_mark) return at;
  }
  fail(path, "it has no directory");
}

}  // namespace

std::vector<std::pair<std::string, Tensor>> read(const std::string& path) {
  const std::string data = npy::read_file(path);
  const std::size_t end = find_end(path, data);
  std::vector<std::pair<std::string, Tensor>> arrays;
  std::size_t at = number<std::uint32_t>(path, data, end + 16);
  for (int left = number<std::uint16_t>(path, data, end + 10); left > 0; --left) {
    if (number<std::uint32_t>(path, data, at) != central_mark) fail(path, "its directory is damaged");
    if (number<std::uint16_t>(path, data, at + 10) != 0) fail(path, "it is compressed");
    const auto size = number<std::uint32_t>(path, data, at + 24);
    const auto name_size = number<std::uint16_t>(path, data, at + 28);
    std::string name = part(path, data, at + central_bytes, name_size);
    const std::size_t local = number<std::uint32_t>(path, data, at + 42);
    const std::size_t begin = local + local_bytes + number<std::uint16_t>(path, data, local + 26) +
                              number<std::uint16_t>(path, data, local + 28);
    if (name.ends_with(".npy")) name.resize(name.size() - 4);
    arrays.emplace_back(name, npy::parse(path, part(path, data, begin, size)));
    at += central_bytes + name_size + number<std::uint16_t>(path, data, at + 30) +
          number<std::uint16_t>(path, data, at + 32);
  }
  return arrays;
}

void write(const std::string& path, const std::vector<std::pair<std::string, TensorView>>& arrays) {
  std::string data, directory;
  for (const auto& [array, view] : arrays) {
    const std::string name = array + ".npy", content = npy::format(view);
    if (content.size() >= size_limit || data.size() >= size_limit) fail(path, "an array is larger than 4 GiB");
    std::string header;  // What the member's own header and the directory have in common.
    put<std::uint16_t>(header, 20), put<std::uint16_t>(header, 0), put<std::uint16_t>(header, 0);
    put<std::uint32_t>(header, 0x00210000);  // The first of January 1980, the earliest time there is.
    put(header, crc32(content));
    put(header, static_cast<std::uint32_t>(content.size())), put(header, static_cast<std::uint32_t>(content.size()));
    put(header, static_cast<std::uint16_t>(name.size())), put<std::uint16_t>(header, 0);
    put(directory, central_mark), put<std::uint16_t>(directory, 20);
    directory += header;
    directory.append(10, '\0');  // No comment, the first disk, no attributes.
    put(directory, static_cast<std::uint32_t>(data.size()));
    directory += name;
    put(data, local_mark);
    data += header + name + content;
  }
  const auto begin = static_cast<std::uint32_t>(data.size());
  data += directory;
  put(data, end_mark), put<std::uint32_t>(data, 0);
  put(data, static_cast<std::uint16_t>(arrays.size())), put(data, static_cast<std::uint16_t>(arrays.size()));
  put(data, static_cast<std::uint32_t>(directory.size())), put(data, begin), put<std::uint16_t>(data, 0);
  std::ofstream stream(path, std::ios::binary | std::ios::trunc);
  stream << data;
  if (!stream.flush()) throw Error("cannot write `" + path + "`: " + std::strerror(errno), path);
}

}  // namespace gantk::npz

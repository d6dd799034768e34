// SPDX-License-Identifier: Apache-2.0
#include "onnx_file.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>
#include <utility>

#include "gantk/error.hpp"

namespace gantk {
namespace {

using Message = std::span<const std::byte>;

constexpr int deepest = 100;  // As protobuf itself has it.
constexpr std::string_view location = "location";  // The key that every tensor has whose values lie elsewhere.

// The messages of ONNX that lead to tensors, and by which of their fields.
enum class Kind { model, graph, function, node, attribute, sparse, tensor };
struct Way {
  Kind from;
  std::uint64_t field;
  Kind to;
};
constexpr std::array ways = {
    Way{Kind::model, 7, Kind::graph},
    Way{Kind::model, 25, Kind::function},
    Way{Kind::graph, 1, Kind::node},
    Way{Kind::graph, 5, Kind::tensor},
    Way{Kind::graph, 15, Kind::sparse},
    Way{Kind::function, 7, Kind::node},
    Way{Kind::function, 11, Kind::attribute},
    Way{Kind::node, 5, Kind::attribute},
    Way{Kind::attribute, 5, Kind::tensor},
    Way{Kind::attribute, 6, Kind::graph},
    Way{Kind::attribute, 10, Kind::tensor},
    Way{Kind::attribute, 11, Kind::graph},
    Way{Kind::attribute, 22, Kind::sparse},
    Way{Kind::attribute, 23, Kind::sparse},
    Way{Kind::sparse, 1, Kind::tensor},
    Way{Kind::sparse, 2, Kind::tensor},
};
constexpr std::uint64_t external_data = 13, data_location = 14;  // Of a tensor.
constexpr std::uint64_t op_type = 4;                             // Of a node.

struct NotOnnx {};

// A number of seven bits a byte, which is taken off the message.
std::uint64_t take_varint(Message& rest) {
  std::uint64_t value = 0;
  for (unsigned shift = 0; shift < 70; shift += 7) {
    if (rest.empty()) throw NotOnnx();
    const auto byte = std::to_integer<std::uint64_t>(rest.front());
    rest = rest.subspan(1);
    value |= (byte & 0x7F) << std::min(shift, 63u);
    if (byte < 0x80) return value;
  }
  throw NotOnnx();
}

Message take_bytes(Message& rest, std::uint64_t count) {
  if (count > rest.size()) throw NotOnnx();
  const Message taken = rest.first(static_cast<std::size_t>(count));
  rest = rest.subspan(taken.size());
  return taken;
}

// One field's number, and what it has: a number, or bytes.
struct Field {
  std::uint64_t number, value = 0;
  Message bytes;
};

Field take_field(Message& rest) {
  const std::uint64_t tag = take_varint(rest);
  Field field{.number = tag >> 3, .bytes = {}};
  switch (tag & 7) {
    case 0: field.value = take_varint(rest); return field;
    case 1: field.bytes = take_bytes(rest, 8); return field;
    case 2: field.bytes = take_bytes(rest, take_varint(rest)); return field;
    case 5: field.bytes = take_bytes(rest, 4); return field;
    default: throw NotOnnx();  // Groups, which ONNX does not have.
  }
}

bool reads_others(Message rest, Kind kind, int depth) {
  if (depth > deepest) throw NotOnnx();
  while (!rest.empty()) {
    const Field field = take_field(rest);
    if (kind == Kind::tensor && field.number == external_data) return true;
    if (kind == Kind::tensor && field.number == data_location && field.value != 0) return true;
    for (const Way& way : ways) {
      if (way.from == kind && way.field == field.number && reads_others(field.bytes, way.to, depth + 1)) return true;
    }
  }
  return false;
}

// Of the nodes of a model and of its functions, and not of their branches.
void add_operators(Message rest, Kind kind, std::set<std::string>& found) {
  while (!rest.empty()) {
    const Field field = take_field(rest);
    if (kind == Kind::node && field.number == op_type) {
      found.emplace(reinterpret_cast<const char*>(field.bytes.data()), field.bytes.size());
    }
    for (const Way& way : ways) {
      const bool leads = way.to == Kind::graph || way.to == Kind::function || way.to == Kind::node;
      if (leads && way.from == kind && kind != Kind::node && way.field == field.number) {
        add_operators(field.bytes, way.to, found);
      }
    }
  }
}

}  // namespace

std::set<std::string> operators_of(std::span<const std::byte> file) {
  std::set<std::string> found;
  try {
    add_operators(file, Kind::model, found);
  } catch (const NotOnnx&) {
    found.clear();
  }
  return found;
}

void refuse_external(std::span<const std::byte> file, const std::string& where) {
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  if (text.find(location) == std::string_view::npos) return;  // Hardly a file need be read.
  try {
    if (!reads_others(file, Kind::model, 0)) return;
  } catch (const NotOnnx&) {
    throw Error("`" + where + "` is not an ONNX file: it is cut short, damaged or something else", where,
                "export or download it again");
  }
  throw Error("the weights of `" + where + "` lie in other files, of which the bundle has no hashes", where,
              "a bundle's files hold their own weights: gantk export writes them so");
}

}  // namespace gantk

// SPDX-License-Identifier: Apache-2.0
#include "spec.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "json.hpp"

namespace gantk {
namespace {

constexpr std::size_t name_limit = 200;
constexpr std::array<std::string_view, 3> layouts = {"NC", "NCHW", "NHWC"};

std::optional<DType> dtype_named(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(DType::boolean); ++i) {
    if (name_of(static_cast<DType>(i)) == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

std::string known_dtypes() {
  std::vector<std::string> names;
  for (int i = 0; i <= static_cast<int>(DType::boolean); ++i) names.emplace_back(name_of(static_cast<DType>(i)));
  return join(names);
}

bool is_symbol(std::string_view text) {
  const auto letter = [](char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_'; };
  return !text.empty() && text.size() <= 64 && letter(text[0]) &&
         std::all_of(text.begin(), text.end(), [&](char c) { return letter(c) || (c >= '0' && c <= '9'); });
}

bool is_too_long(const Json& value) {
  return value.is_string() && length(value.get_ref<const std::string&>()) > name_limit;
}

// Python takes true and false for the numbers 1 and 0.
bool is_number(const Json& value) { return value.is_number() || value.is_boolean(); }
double number(const Json& value) { return value.is_boolean() ? value.get<bool>() : value.get<double>(); }

Size read_size(const Json& value, const std::string& tensor) {
  const bool good = value.is_string()
                        ? is_symbol(value.get_ref<const std::string&>())
                        : value.is_number_integer() && integer(value) >= 0 && integer(value) <= size_limit;
  if (!good) throw Error("tensor " + tensor + " has a size " + repr_json(value) + "; a count or a symbol is wanted");
  return value.is_string() ? Size(value.get<std::string>()) : Size(integer(value));
}

// The types of the fields; what they say is checked by `read_spec`.
void check_types(const Json& data) {
  const auto field = [&](const char* key) { return data.contains(key) ? data[key] : Json(); };
  const Json name = field("name"), dtype = field("dtype"), shape = field("shape");
  const Json range = field("range"), layout = field("layout"), smallest = data.value("smallest", Json(1));
  if (!name.is_string() || !dtype.is_string() || !shape.is_array()) {
    throw Error("a tensor wants a name, a dtype and a shape");
  }
  if (is_too_long(name) || is_too_long(dtype) || is_too_long(layout) ||
      std::any_of(shape.begin(), shape.end(), is_too_long)) {
    throw Error("a tensor's name, dtype, layout or size has more than " + std::to_string(name_limit) + " characters");
  }
  const std::string tensor = "tensor " + repr_json(name);
  const auto is_size = [](const Json& size) {
    return size.is_string() || size.is_number_integer() || size.is_boolean();
  };
  if (shape.size() > Shape::most_axes || !std::all_of(shape.begin(), shape.end(), is_size)) {
    throw Error(tensor + " has a shape " + repr(first(str_json(shape), 100)) +
                "; up to 16 counts or symbols are wanted");
  }
  if (!range.is_null() && !(range.is_array() && range.size() == 2 && is_number(range[0]) && is_number(range[1]))) {
    throw Error(tensor + " has a range " + repr(first(str_json(range), 100)) + "; two numbers are wanted");
  }
  if (!layout.is_null() && !layout.is_string()) {
    throw Error(tensor + " has a layout " + repr_json(layout) + "; one of NC, NCHW, NHWC is wanted");
  }
  if (!smallest.is_number_integer() && !smallest.is_boolean()) {
    throw Error(tensor + " has a smallest size " + repr(first(str_json(smallest), 100)) + "; a count is wanted");
  }
}

void check_layout(const TensorSpec& spec, const std::string& tensor) {
  if (std::find(layouts.begin(), layouts.end(), spec.layout) == layouts.end() ||
      spec.layout.size() != spec.shape.size()) {
    throw Error(tensor + " has layout " + repr(spec.layout) + " and " + std::to_string(spec.shape.size()) +
                " axes; known are NC, NCHW, NHWC, a letter an axis");
  }
}

std::pair<double, double> read_range(const Json& value, const std::string& tensor) {
  const double low = number(value[0]), high = number(value[1]);
  if (!(std::isfinite(low) && low < high && std::isfinite(high))) {
    throw Error(tensor + " has range (" + repr(low) + ", " + repr(high) +
                "); wanted: two finite numbers, smaller first");
  }
  return {low, high};
}

}  // namespace

TensorSpec read_spec(const Json& data) {
  if (!data.is_object()) throw Error("a tensor is described by an object, not by " + type_name(data));
  check_types(data);
  TensorSpec spec{.name = data["name"].get<std::string>()};
  const std::string tensor = "tensor " + repr(spec.name);
  if (spec.name.empty() || !is_printable(spec.name)) {
    throw Error(repr(spec.name) + " is not a tensor name: 1 to " + std::to_string(name_limit) +
                " printable characters");
  }
  const auto dtype = dtype_named(data["dtype"].get_ref<const std::string&>());
  if (!dtype) throw Error(tensor + " has dtype " + repr_json(data["dtype"]) + "; known are " + known_dtypes());
  spec.dtype = *dtype;
  for (const Json& size : data["shape"]) spec.shape.push_back(read_size(size, repr(spec.name)));
  if (data.contains("layout") && !data["layout"].is_null()) {
    spec.layout = data["layout"].get<std::string>();
    check_layout(spec, tensor);
  }
  if (data.contains("range") && !data["range"].is_null()) spec.range = read_range(data["range"], tensor);
  const Json smallest = data.value("smallest", Json(1));
  if (smallest.is_boolean() || integer(smallest) < 1 || integer(smallest) > size_limit) {
    throw Error("the smallest height of " + tensor + " is " + repr_json(smallest) + "; at least 1 is wanted");
  }
  spec.smallest = integer(smallest);
  if (spec.smallest > 1 && !spec.picture_axes()) {
    throw Error(tensor + " has a smallest height and is no picture");
  }
  return spec;
}

std::string text_of(const Size& size) {
  const auto* count = std::get_if<std::int64_t>(&size);
  return count != nullptr ? std::to_string(*count) : std::get<std::string>(size);
}

std::optional<std::pair<std::size_t, std::size_t>> TensorSpec::picture_axes() const {
  if (layout != "NCHW" && layout != "NHWC") return std::nullopt;
  return std::pair(layout.find('H'), layout.find('W'));
}

std::string TensorSpec::text() const {
  std::vector<std::string> sizes;
  for (const Size& size : shape) sizes.push_back(text_of(size));
  return name + ": " + std::string(name_of(dtype)) + "[" + join(sizes, " x ") + "]";
}

}  // namespace gantk

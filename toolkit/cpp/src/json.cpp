// SPDX-License-Identifier: Apache-2.0
#include "json.hpp"

#include <cmath>
#include <limits>

namespace gantk {
namespace {

const Json missing;

const Json& look(const Json& data, const char* key) {
  if (!data.is_object()) throw Error("an object with " + repr(key) + " is wanted, not " + type_name(data));
  const auto found = data.find(key);
  return found == data.end() ? missing : *found;
}

const Json& checked(const Json& value, const char* key, const char* wanted, bool is_wanted) {
  if (!is_wanted) {
    const std::string got = value.is_null() ? "nothing" : type_name(value);
    throw Error(repr(key) + " wants " + wanted + ", not " + got);
  }
  return value;
}

}  // namespace

Json parse_json(std::string_view text, bool allow_exceptions) {
  const auto check_depth = [](int depth, Json::parse_event_t, const Json&) {
    if (depth > deepest) throw Error("values are nested more than " + std::to_string(deepest) + " deep");
    return true;
  };
  return Json::parse(text, check_depth, allow_exceptions);
}

std::string repr_json(const Json& value) {
  using Kind = Json::value_t;
  switch (value.type()) {
    case Kind::null: return "None";
    case Kind::boolean: return value.get<bool>() ? "True" : "False";
    case Kind::string: return repr(value.get_ref<const std::string&>());
    case Kind::number_float: return repr(value.get<double>());
    case Kind::array:
    case Kind::object: break;
    default: return value.dump();
  }
  std::vector<std::string> parts;
  for (const auto& [key, item] : value.items()) {
    parts.push_back(value.is_object() ? repr(key) + ": " + repr_json(item) : repr_json(item));
  }
  return value.is_object() ? "{" + join(parts) + "}" : "[" + join(parts) + "]";
}

std::string str_json(const Json& value) {
  return value.is_string() ? value.get<std::string>() : repr_json(value);
}

std::string type_name(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null: return "NoneType";
    case Json::value_t::boolean: return "bool";
    case Json::value_t::string: return "str";
    case Json::value_t::array: return "list";
    case Json::value_t::object: return "dict";
    case Json::value_t::number_float: return "float";
    default: return "int";
  }
}

std::string take_text(const Json& value) {
  if (!value.is_string()) throw Error("text is wanted, not " + type_name(value));
  const auto& text = value.get_ref<const std::string&>();
  if (length(text) > text_limit || !is_printable(text)) {
    throw Error("printable text of up to " + std::to_string(text_limit) + " characters is wanted, not " +
                repr(first(text, 100)));
  }
  return text;
}

std::string take_string(const Json& data, const char* key) {
  const Json& value = look(data, key);
  return take_text(checked(value, key, "str", value.is_string()));
}

std::optional<std::string> take_optional_string(const Json& data, const char* key) {
  return look(data, key).is_null() ? std::nullopt : std::optional(take_string(data, key));
}

std::int64_t take_integer(const Json& data, const char* key) {
  const Json& value = look(data, key);
  return integer(checked(value, key, "int", value.is_number_integer()));
}

std::optional<std::int64_t> take_optional_integer(const Json& data, const char* key) {
  return look(data, key).is_null() ? std::nullopt : std::optional(take_integer(data, key));
}

bool take_bool(const Json& data, const char* key) {
  const Json& value = look(data, key);
  return checked(value, key, "bool", value.is_boolean()).get<bool>();
}

const Json& take_object(const Json& data, const char* key) {
  const Json& value = look(data, key);
  return checked(value, key, "dict", value.is_object());
}

const Json* take_optional_object(const Json& data, const char* key) {
  return look(data, key).is_null() ? nullptr : &take_object(data, key);
}

std::optional<double> take_number(const Json& data, const char* key) {
  if (!data.is_object() || !data.contains(key)) throw Error(repr(key) + " is missing");
  const Json& value = data[key];
  if (value.is_null()) return std::nullopt;
  const double number = value.is_number() ? value.get<double>() : std::numeric_limits<double>::quiet_NaN();
  if (!std::isfinite(number)) {
    throw Error(repr(key) + " wants a finite number, not " + repr(first(str_json(value), 100)));
  }
  return number;
}

const Json& take_array(const Json& data, const char* key) {
  const Json& value = look(data, key);
  return checked(value, key, "list", value.is_array());
}

std::int64_t integer(const Json& value) {
  if (!value.is_number_integer()) throw Error("an integer is wanted, not " + type_name(value));
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max()) {
    throw Error("an integer of 64 bits is wanted, not " + value.dump());
  }
  return value.get<std::int64_t>();
}

bool has_twins(std::vector<std::string>& names) {
  std::sort(names.begin(), names.end());
  return std::adjacent_find(names.begin(), names.end()) != names.end();
}

void check_different(const std::string& what, std::vector<std::string> names) {
  if (has_twins(names)) throw Error("two " + what + " are called the same: " + join(names));
}

}  // namespace gantk

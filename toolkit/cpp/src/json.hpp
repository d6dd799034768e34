// SPDX-License-Identifier: Apache-2.0
// JSON values as Python shows them, and the fields of an object, taken with their types checked.
#pragma once

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "gantk/error.hpp"
#include "text.hpp"

namespace gantk {

using Json = nlohmann::json;

inline constexpr std::size_t text_limit = 2000;  // characters of any text in a manifest
inline constexpr int deepest = 100;              // levels of values in values

// As Json::parse; what is nested deeper, whose copies would take all of the stack, is an Error.
Json parse_json(std::string_view text, bool allow_exceptions = true);

std::string repr_json(const Json& value);
std::string str_json(const Json& value);   // as `repr_json`, but a string as it is
std::string type_name(const Json& value);  // "dict", "NoneType", ...

// `value`, which must be printable text, for it will be shown on terminals.
std::string take_text(const Json& value);

std::string take_string(const Json& data, const char* key);
std::optional<std::string> take_optional_string(const Json& data, const char* key);
std::int64_t take_integer(const Json& data, const char* key);
std::optional<std::int64_t> take_optional_integer(const Json& data, const char* key);
bool take_bool(const Json& data, const char* key);
const Json& take_object(const Json& data, const char* key);
const Json* take_optional_object(const Json& data, const char* key);
std::optional<double> take_number(const Json& data, const char* key);  // finite, or null, which is nothing
const Json& take_array(const Json& data, const char* key);

// An integer of the list `key`, which must fit 64 bits.
std::int64_t integer(const Json& value);

bool has_twins(std::vector<std::string>& names);  // sorts them
void check_different(const std::string& what, std::vector<std::string> names);

template <class Names>
bool holds(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Each item of a list by `read`; an Error says which item it is about.
template <class Read>
auto take_list(const Json& data, const char* key, Read read) {
  std::vector<decltype(read(data))> items;
  for (const Json& item : take_array(data, key)) {
    try {
      items.push_back(read(item));
    } catch (const Error& error) {
      throw Error(std::string(key) + "[" + std::to_string(items.size()) + "]: " + error.what(), error.where(),
                  error.hint());
    }
  }
  return items;
}

template <class Check>
void for_each(const Json& data, const char* key, Check check) {
  take_list(data, key, [&](const Json& item) { return check(item), true; });
}

}  // namespace gantk

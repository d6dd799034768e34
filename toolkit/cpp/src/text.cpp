// SPDX-License-Identifier: Apache-2.0
#include "text.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <utility>

namespace gantk {
namespace {

constexpr std::size_t vendor_text_limit = 300;

// Unicode's general categories Cc, Cf, Cs, Co, Zl, Zp and Zs without the space; unassigned code points, which differ
// between versions of Unicode, count as printable.
constexpr std::array<std::pair<char32_t, char32_t>, 32> not_printable = {{
    {0x0000, 0x001F},   {0x007F, 0x00A0},     {0x00AD, 0x00AD},     {0x0600, 0x0605},   {0x061C, 0x061C},
    {0x06DD, 0x06DD},   {0x070F, 0x070F},     {0x0890, 0x0891},     {0x08E2, 0x08E2},   {0x1680, 0x1680},
    {0x180E, 0x180E},   {0x2000, 0x200F},     {0x2028, 0x202F},     {0x205F, 0x2064},   {0x2066, 0x206F},
    {0x3000, 0x3000},   {0xD800, 0xF8FF},     {0xFEFF, 0xFEFF},     {0xFFF9, 0xFFFB},   {0x110BD, 0x110BD},
    {0x110CD, 0x110CD}, {0x13430, 0x1343F},   {0x1BCA0, 0x1BCA3},   {0x1D173, 0x1D17A}, {0xE0001, 0xE0001},
    {0xE0020, 0xE007F}, {0xF0000, 0xFFFFD},   {0x100000, 0x10FFFD}, {0xFFFE, 0xFFFF},   {0x1FFFE, 0x1FFFF},
    {0xFFFFE, 0xFFFFF}, {0x10FFFE, 0x10FFFF},
}};

bool shows(char32_t point) {
  return std::none_of(not_printable.begin(), not_printable.end(),
                      [point](const auto& range) { return range.first <= point && point <= range.second; });
}

// The code point at `at`, which is moved past it. A byte that begins none stands for itself.
char32_t next(std::string_view text, std::size_t& at) {
  const auto lead = static_cast<unsigned char>(text[at++]);
  const std::size_t more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : lead >= 0xC0 ? 1 : 0;
  if (more == 0 || at + more > text.size()) return lead;
  char32_t point = lead & (0x3Fu >> more);
  for (std::size_t i = 0; i < more; ++i) point = point << 6 | (static_cast<unsigned char>(text[at++]) & 0x3Fu);
  return point;
}

std::string escaped(char32_t point) {
  char buffer[12];
  const char* format = point < 0x100 ? "\\x%02x" : point < 0x10000 ? "\\u%04x" : "\\U%08x";
  std::snprintf(buffer, sizeof buffer, format, static_cast<unsigned>(point));
  return buffer;
}

// What follows a source position, "/folder/file.cc:123:", that a word begins with; the whole word where there is none.
std::string_view after_position(std::string_view word) {
  constexpr std::array<std::string_view, 5> suffixes = {".cpp", ".cc", ".h", ".hpp", ".py"};
  const std::size_t slash = word.find('/');
  for (std::size_t colon = word.rfind(':'); slash != word.npos && colon != word.npos && colon > slash;
       colon = word.rfind(':', colon - 1)) {
    const std::size_t end = std::min(word.find_first_not_of("0123456789", colon + 1), word.size());
    const std::string_view file = word.substr(0, colon);
    const bool is_source = std::any_of(suffixes.begin(), suffixes.end(), [&](std::string_view suffix) {
      return file.ends_with(suffix) && file.size() > slash + 1 + suffix.size();
    });
    if (is_source && end > colon + 1)
      return word.substr(std::min(end + word.substr(end).starts_with(':'), word.size()));
  }
  return word;
}

}  // namespace

std::size_t length(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string first(std::string_view text, std::size_t count) {
  std::size_t at = 0;
  while (at < text.size() && count-- > 0) next(text, at);
  return std::string(text.substr(0, at));
}

bool is_printable(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    if (!shows(next(text, at))) return false;
  }
  return true;
}

std::string repr(std::string_view text) {
  const char quote = text.find('\'') != text.npos && text.find('"') == text.npos ? '"' : '\'';
  std::string shown(1, quote);
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t from = at;
    const char32_t point = next(text, at);
    if (point == '\n') shown += "\\n";
    else if (point == '\r') shown += "\\r";
    else if (point == '\t') shown += "\\t";
    else if (point == '\\' || point == static_cast<char32_t>(quote)) shown += {'\\', static_cast<char>(point)};
    else if (shows(point)) shown += text.substr(from, at - from);
    else shown += escaped(point);
  }
  return shown + quote;
}

std::string repr(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  // The shortest digits that read back as the same number; plain between 1e-4 and 1e16, as Python has it.
  std::array<char, 64> buffer;
  const double size = std::abs(number);
  const auto format =
      size == 0 || (size >= 1e-4 && size < 1e16) ? std::chars_format::fixed : std::chars_format::scientific;
  const auto end = std::to_chars(buffer.begin(), buffer.end(), number, format).ptr;
  std::string text(buffer.data(), end);
  if (format == std::chars_format::fixed && text.find('.') == text.npos) text += ".0";
  return text;
}

std::string formatted(double number, int digits, std::chars_format format) {
  std::array<char, 400> buffer;  // The largest number has 309 digits before the point.
  return {buffer.begin(), std::to_chars(buffer.begin(), buffer.end(), number, format, digits).ptr};
}

std::string join(std::span<const std::string_view> parts, std::string_view between) {
  std::string joined;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) joined += between;
    joined += parts[i];
  }
  return joined;
}

std::string join(std::span<const std::string> parts, std::string_view between) {
  const std::vector<std::string_view> views(parts.begin(), parts.end());
  return join(views, between);
}

std::string shortened(std::string_view message) {
  const std::string text = first(message, 10 * vendor_text_limit);
  std::vector<std::string> words;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find_first_of(" \t\n\v\f\r", at), text.size());
    const std::string_view word = after_position(std::string_view(text).substr(at, end - at));
    if (!word.empty()) words.emplace_back(word);
    at = end + 1;
  }
  const std::string line = join(words, " ");
  return length(line) <= vendor_text_limit ? line : first(line, vendor_text_limit - 3) + "...";
}

}  // namespace gantk

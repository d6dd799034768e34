// SPDX-License-Identifier: Apache-2.0
// Values as Python's `repr` and `str` write them, so that both runners say the same of the same mistake.
#pragma once

#include <charconv>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gantk {

// Text is UTF-8 throughout; lengths count code points, as Python's do.
std::size_t length(std::string_view text);
std::string first(std::string_view text, std::size_t count);

// Whether a terminal shows every character as itself: no control, format, private or separator characters.
bool is_printable(std::string_view text);

std::string repr(std::string_view text);
std::string repr(double number);

// As Python's formats ".3g", or ".3f" with `fixed`; with a point, whatever the locale has.
std::string formatted(double number, int digits = 6, std::chars_format format = std::chars_format::general);

std::string join(std::span<const std::string> parts, std::string_view between = ", ");

std::string join(std::span<const std::string_view> parts, std::string_view between = ", ");

// A vendor's message on one line, without source positions, at most 300 characters.
std::string shortened(std::string_view message);

}  // namespace gantk

// SPDX-License-Identifier: Apache-2.0
// What the examples share: errors as people read them.
#pragma once

#include <charconv>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "gantk/error.hpp"

// The number, at least 0, that a word of the command line is.
inline int number(const std::string& word) {
  int value = 0;
  const auto [end, fault] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (fault == std::errc() && end == word.data() + word.size() && value >= 0) return value;
  throw gantk::Error("'" + word + "' is not a number, at least 0", {}, {}, gantk::ErrorKind::usage);
}

// Calls `work` with the words of the command line, of which there must be `least` to `most`.
template <class Work>
int run_example(int count, char** words, std::size_t least, std::size_t most, const char* usage, Work work) {
  const std::vector<std::string> given(words + 1, words + count);
  if (given.size() < least || given.size() > most) {
    std::cerr << "usage: " << usage << "\n";
    return 2;
  }
  try {
    work(given);
    return 0;
  } catch (const gantk::Error& error) {
    std::cerr << "error: " << error.text() << "\n";
    return static_cast<int>(error.kind());
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
}

// SPDX-License-Identifier: Apache-2.0
// What the examples share: errors as people read them.
#pragma once

#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "gantk/error.hpp"

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

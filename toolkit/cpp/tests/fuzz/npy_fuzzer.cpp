// SPDX-License-Identifier: Apache-2.0
// Feeds libFuzzer's bytes to the reader of NumPy's files, with the corpus in corpus/npy. The only way out is an Error.
#include <cstddef>
#include <cstdint>

#include "gantk/error.hpp"
#include "npy.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    gantk::npy::parse("fuzz", {reinterpret_cast<const char*>(data), size});
  } catch (const gantk::Error&) {
  }
  return 0;
}

// SPDX-License-Identifier: Apache-2.0
// Feeds libFuzzer's bytes to the reader of probes, with the corpus in corpus/probe. The only way out is an Error, and
// what was read lies within the bytes.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "gantk/error.hpp"
#include "probe.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span bytes(data, size);
  try {
    for (const auto& [name, view] : gantk::read_safetensors(std::as_bytes(bytes), "fuzz")) {
      const auto* from = static_cast<const std::uint8_t*>(view.data);
      const std::less_equal<> before;  // Of pointers into different arrays too.
      if (!before(data, from) || !before(from + view.size_bytes(), data + size)) __builtin_trap();
    }
  } catch (const gantk::Error&) {
  }
  return 0;
}

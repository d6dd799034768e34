// SPDX-License-Identifier: Apache-2.0
// Feeds libFuzzer's bytes to what reads files that anybody may have written. The only way out is an Error.
//
//   gantk_fuzz_manifest -max_total_time=60 NEW_FINDINGS tests/fuzz/corpus
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "gantk/error.hpp"
#include "gantk/manifest.hpp"
#include "npy.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  try {
    const gantk::Manifest manifest = gantk::Manifest::parse(bytes);
    for (const gantk::Variant& variant : manifest.variants) {
      // What was read keeps its promises: a path that leads nowhere else.
      if (variant.file.path.find("..") == 0 || variant.file.path.starts_with('/')) __builtin_trap();
    }
  } catch (const gantk::Error&) {
  }
  try {
    gantk::npy::parse("fuzz", bytes);
  } catch (const gantk::Error&) {
  }
  return 0;
}

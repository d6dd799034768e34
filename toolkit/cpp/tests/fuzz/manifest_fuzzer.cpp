// SPDX-License-Identifier: Apache-2.0
// Feeds libFuzzer's bytes to the reader of manifests. The only way out is an Error.
//
//   gantk_fuzz_manifest -max_total_time=60 NEW_FINDINGS tests/fuzz/corpus/manifest
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "gantk/error.hpp"
#include "gantk/manifest.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto manifest = gantk::Manifest::parse({reinterpret_cast<const char*>(data), size});
    for (const gantk::Variant& variant : manifest.variants) {
      // What was read keeps its promises: a path that leads nowhere else.
      if (variant.file.path.find("..") == 0 || variant.file.path.starts_with('/')) __builtin_trap();
    }
  } catch (const gantk::Error&) {
  }
  return 0;
}

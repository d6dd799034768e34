// SPDX-License-Identifier: Apache-2.0
// A library of plugins: the product is to ask it for their creators, or it registers them itself.
#include <NvInferRuntime.h>

namespace {

nvinfer1::IPluginCreatorInterface creator;

#ifdef REGISTERS_ITSELF
[[maybe_unused]] const bool is_registered = getPluginRegistry()->registerCreator(creator, "");
#endif

}  // namespace

#ifndef REGISTERS_ITSELF
extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count) {
  static nvinfer1::IPluginCreatorInterface* const all[] = {&creator};
  return count = 1, all;
}
#endif

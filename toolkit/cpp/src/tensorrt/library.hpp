// SPDX-License-Identifier: Apache-2.0
// The product's shared library, loaded when it is first asked for; and its logger.
#pragma once

#include <NvInferRuntime.h>

#include <memory>
#include <string>

namespace gantk::tensorrt {

#ifdef TRT_MAJOR_RTX
inline constexpr const char* product = "tensorrt-rtx";
#else
inline constexpr const char* product = "tensorrt";
#endif

struct Library {
  std::string version;      // e.g. "10.16.0.72"; empty where it could not be loaded
  std::string fault, hint;  // why it could not be loaded, and what to do about it
  void* (*create_runtime)(void* logger, std::int32_t version) noexcept = nullptr;
};

// Loads it once a process: what the environment variable GANTK_TENSORRT or GANTK_TENSORRT_RTX names, else the library
// of the headers' major version, from where the loader looks. It must not be older than the headers.
const Library& library();

// A runtime of the library, which must have been loaded; null where it refuses.
std::unique_ptr<nvinfer1::IRuntime> create_runtime();

// Calls of this thread from here on are listened to; `fail` throws an Error that has the errors since, on one line.
void listen();
bool has_complained();  // whether there were errors since
[[noreturn]] void fail(const std::string& where, const std::string& doing, const std::string& hint = {});

}  // namespace gantk::tensorrt

// SPDX-License-Identifier: Apache-2.0
// What a plan yields: launches of kernels, ready for cuLaunchKernel. Host only, standard library only.
// The twin of `toolkit/gantk/kernels/launch.py`; a test holds the plans of both equal.
#pragma once

#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include <gantk/kernels/types.h>

namespace gantk::kernels {

// What a plan knows of a GPU.
struct Device {
    int major = 0;  // Compute capability.
    int minor = 0;
    int multiprocessors = 0;
    int64_t shared_bytes = 0;  // What one block may have at most, opted in.
};

struct Extent {
    uint32_t x = 1, y = 1, z = 1;
};

enum class Element : int32_t { float32, float16, bfloat16 };

constexpr int element_bytes(Element element) { return element == Element::float32 ? 4 : 2; }

enum class Precision : int32_t {
    exact,  // float32 features as float32 sums would have them, tensor cores by 3xTF32.
    tf32,   // float32 features rounded to TF32.
};

// Features [N, C, K] and how they lie; strides are in elements.
struct Features {
    Element element = Element::float32;
    int64_t pictures = 0, channels = 0, places = 0;
    int64_t batch_stride = 0, channel_stride = 0, place_stride = 0;
    int32_t alignment = 1;  // The largest power of two, up to 16, that divides the first element's address.
};

// A CUtensorMap that the caller encodes with cuTensorMapEncodeTiled into the parameters before the launch.
struct TensorMap {
    int32_t offset = 0;  // In the parameters, in bytes, a multiple of 64.
    uint64_t address = 0;
    Element element = Element::float32;
    bool as_tf32 = false;                 // Of float32: the copy rounds to TF32 (CU_TENSOR_MAP_DATA_TYPE_TFLOAT32).
    std::vector<uint64_t> sizes;          // Innermost first, in elements.
    std::vector<uint64_t> strides_bytes;  // Of every dimension but the innermost.
    std::vector<uint32_t> box;            // Innermost first, in elements.
    int32_t swizzle_bytes = 128;
};

struct Launch {
    std::string unit;    // The source file without its extension.
    std::string kernel;  // extern "C" name.
    Extent grid, block;
    uint32_t shared_bytes = 0;               // Dynamic.
    std::vector<unsigned char> parameters;  // The kernel's only argument, by value.
    std::vector<TensorMap> tensor_maps;
    // It waits by itself for the launch before it, and may come before that has ended (programmatic dependent launch).
    bool dependent = false;
};

// A launch that cannot be planned; the text says why.
struct PlanError : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

template <class Parameters>
std::vector<unsigned char> bytes_of(const Parameters& parameters) {
    std::vector<unsigned char> bytes(sizeof(Parameters));
    std::memcpy(bytes.data(), &parameters, sizeof(Parameters));
    return bytes;
}

}  // namespace gantk::kernels

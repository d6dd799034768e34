// SPDX-License-Identifier: Apache-2.0
// Fixed-width integers for code that NVRTC, nvcc and a host compiler share; NVRTC has no standard headers.
#pragma once

#if defined(__CUDACC_RTC__)
namespace gantk::kernels {
using int32_t = int;
using int64_t = long long;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using uint64_t = unsigned long long;
}  // namespace gantk::kernels
#else
#include <cstdint>
namespace gantk::kernels {
using std::int32_t;
using std::int64_t;
using std::uint16_t;
using std::uint32_t;
using std::uint64_t;
using std::uint8_t;
}  // namespace gantk::kernels
#endif

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define GANTK_BOTH __host__ __device__ __forceinline__
#else
#define GANTK_BOTH inline
#endif

// SPDX-License-Identifier: Apache-2.0
// One function, compiled for several processors; the loader takes the best that this one has.
#pragma once

// Sanitizers instrument the function that chooses, which runs before they are ready.
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(GANTK_ONE_PROCESSOR)
#define GANTK_CLONES __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define GANTK_CLONES
#endif

// What clones are made of is compiled with each.
#define GANTK_INLINE inline __attribute__((always_inline))

namespace gantk::cpu {

// One AVX register, or two of SSE or NEON. May stand at any address that a float may.
constexpr int kLanes = 8;
// Clang takes an alignment of the alias alone, not of the type that it stands for.
using Lanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(alignof(float)), may_alias)) = float;
static_assert(alignof(Lanes) == alignof(float));

}  // namespace gantk::cpu

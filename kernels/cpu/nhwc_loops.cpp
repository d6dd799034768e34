// SPDX-License-Identifier: Apache-2.0
#include "nhwc_loops.hpp"

namespace gantk::cpu::nhwc {
namespace {

const Loops* best() {
#ifdef GANTK_HAS_AVX512
    if (has_avx512()) return &kAvx512Loops;
#endif
    return &kPortableLoops;
}

const Loops*& chosen() {
    static const Loops* loops = best();
    return loops;
}

}  // namespace

const Loops& loops() { return *chosen(); }

void choose(const Loops& loops) { chosen() = &loops; }

}  // namespace gantk::cpu::nhwc

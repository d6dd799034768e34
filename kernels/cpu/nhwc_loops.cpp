// SPDX-License-Identifier: Apache-2.0
#include "nhwc_loops.hpp"

namespace gantk::cpu::nhwc {
namespace {

const Processor* best() {
#ifdef GANTK_HAS_AVX512
    for (const Processor* each : {&kAvx512Bf16, &kAvx512})
        if (each->is_here()) return each;
#endif
    return &kPortable;
}

const Processor*& chosen() {
    static const Processor* processor = best();
    return processor;
}

}  // namespace

const Processor& processor() { return *chosen(); }

void choose(const Processor& processor) { chosen() = &processor; }

}  // namespace gantk::cpu::nhwc

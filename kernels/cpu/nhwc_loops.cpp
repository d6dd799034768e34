// SPDX-License-Identifier: Apache-2.0
#include "nhwc_loops.hpp"

namespace gantk::cpu::nhwc {
namespace {

const Processor*& chosen() {
    static const Processor* processor = processors().front();
    return processor;
}

}  // namespace

std::vector<const Processor*> processors() {
    std::vector<const Processor*> here;
#ifdef GANTK_X86_64
    for (const Processor* each : {&kAvx512Bf16, &kAvx512, &kAvx2})
        if (each->is_here()) here.push_back(each);
#endif
    here.push_back(&kPortable);
    return here;
}

const Processor& processor() { return *chosen(); }

void choose(const Processor& processor) { chosen() = &processor; }

}  // namespace gantk::cpu::nhwc

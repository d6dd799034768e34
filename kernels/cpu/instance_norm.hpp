// SPDX-License-Identifier: Apache-2.0
// What kernels/cuda/instance_norm.cuh computes, on a CPU.
#pragma once

#include <gantk/kernels/instance_norm_plan.hpp>

#include "element.hpp"
#include "memory.hpp"
#include "parallel.hpp"

namespace gantk::cpu {

// Runs a plan, whatever the device that it was made for. Means and variances are joined in float64 from those of some
// rows each, which are float32.
//
// Throws std::bad_alloc where there is no memory.
void instance_norm(const kernels::InstanceNormPlan& plan, const kernels::NormData& data, Element element,
                   const Memory& memory, const Parallel& parallel);

}  // namespace gantk::cpu

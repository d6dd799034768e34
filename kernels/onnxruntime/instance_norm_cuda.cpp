// SPDX-License-Identifier: Apache-2.0
#include "instance_norm.hpp"

#include "cuda.hpp"

namespace gantk::onnxruntime {
namespace {

void run(Ort::KernelContext& context, const Ort::ConstValue& features, Element,
         const kernels::InstanceNormPlan& plan, const kernels::NormData& data) {
    const CudaWorkspace workspace(context, features, plan.workspace_bytes);
    launch(context, plan.launches(data, workspace.data()));
}

}  // namespace

const NormDevice kNormCuda{[] { return kernels::Device{driver::current_device()}; }, driver::alignment_of, run};

}  // namespace gantk::onnxruntime

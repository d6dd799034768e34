// SPDX-License-Identifier: Apache-2.0
// What the kernels for GPUs share: the stream and the memory of the CUDA provider.
#pragma once

#include "../driver/driver.hpp"
#include "kernel.hpp"

namespace gantk::onnxruntime {

// Memory of the GPU that holds `beside`, in the order of the provider's stream.
class CudaWorkspace : public Workspace {
  public:
    CudaWorkspace(Ort::KernelContext& context, const Ort::ConstValue& beside, std::int64_t bytes);

    std::uint64_t address() const { return driver::address_of(data()); }
};

// Enqueues what a plan yields on the provider's stream.
void launch(Ort::KernelContext& context, const std::vector<kernels::Launch>& launches);

}  // namespace gantk::onnxruntime

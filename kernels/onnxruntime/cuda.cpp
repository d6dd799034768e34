// SPDX-License-Identifier: Apache-2.0
#include "cuda.hpp"

namespace gantk::onnxruntime {
namespace {

Ort::MemoryInfo place_of(const Ort::ConstValue& tensor) {
    return {"Cuda", OrtDeviceAllocator, tensor.GetTensorMemoryInfo().GetDeviceId(), OrtMemTypeDefault};
}

}  // namespace

CudaWorkspace::CudaWorkspace(Ort::KernelContext& context, const Ort::ConstValue& beside, std::int64_t bytes)
    : Workspace(context, place_of(beside), static_cast<std::size_t>(bytes)) {}

void launch(Ort::KernelContext& context, const std::vector<kernels::Launch>& launches) {
    driver::launch(launches, static_cast<CUstream>(context.GetGPUComputeStream()));
}

}  // namespace gantk::onnxruntime

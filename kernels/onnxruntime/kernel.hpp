// SPDX-License-Identifier: Apache-2.0
// What the operators share: what a kernel is to ONNX Runtime, and how it reads attributes, inputs and memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <onnxruntime_cxx_api.h>

#include "../cpu/element.hpp"
#include "../cpu/parallel.hpp"

namespace gantk::onnxruntime {

using cpu::Element;
using Shape = std::vector<std::int64_t>;

// Something the caller can act on; ONNX Runtime makes an exception or a status of it.
struct Error : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

// `[1, 64, 32, 32]`, as errors show it.
std::string text_of(const Shape& shape);

// A node, ready to run. Threads may share one.
class Kernel {
  public:
    virtual ~Kernel() = default;
    virtual void compute(Ort::KernelContext& context) const = 0;

    OrtStatusPtr ComputeV2(OrtKernelContext* context) noexcept;
};

// Runs `function` and turns what it throws into a status: no exception may cross the C interface.
template <typename Function>
OrtStatusPtr guarded(const Function& function) noexcept {
    try {
        function();
        return nullptr;
    } catch (const Error& error) {
        return Ort::GetApi().CreateStatus(ORT_INVALID_ARGUMENT, error.what());
    } catch (const Ort::Exception& error) {
        return Ort::GetApi().CreateStatus(error.GetOrtErrorCode(), error.what());
    } catch (const std::exception& error) {
        return Ort::GetApi().CreateStatus(ORT_FAIL, error.what());
    }
}

// An attribute of a node, or its default where the node has none.
//
// Throws Error where the attribute is of another type.
float float_attribute(const OrtKernelInfo* info, const char* name, float otherwise);
std::string string_attribute(const OrtKernelInfo* info, const char* name, const char* otherwise);
std::int64_t int_attribute(const OrtKernelInfo* info, const char* name, std::int64_t otherwise);

// So many integers, or zeros where the node has no such attribute.
std::vector<std::int64_t> ints_attribute(const OrtKernelInfo* info, const char* name, std::size_t count);

// The shape of an input; every size is at least 1, and there are `axes` axes or, with `more`, at least as
// many.
//
// Throws Error where it is another one; `wanted` says in words what it should be.
Shape shape_of(const Ort::ConstValue& value, const char* name, std::size_t axes, bool more,
               const char* wanted);

// The session's threads.
cpu::Parallel threads_of(Ort::KernelContext& context);

// Memory for the time of one call, from the session's allocator, which keeps it for the next.
class Workspace {
  public:
    Workspace(Ort::KernelContext& context, const OrtMemoryInfo* place, std::size_t bytes);
    Workspace(const Workspace&) = delete;
    ~Workspace();

    void* data() const { return data_; }

  private:
    OrtAllocator* allocator_ = nullptr;
    void* data_ = nullptr;
};

class CpuWorkspace : public Workspace {
  public:
    CpuWorkspace(Ort::KernelContext& context, std::size_t bytes);
};

// What a node's kernel is made from.
struct Making {
    const OrtKernelInfo* info;
    Element element;
};

using Make = std::unique_ptr<Kernel> (*)(const Making&);

// One operator's names and types; `element` stands for the element type that a kernel is registered for, `sizes` for
// int64 in the memory of the CPU, whatever the provider.
enum class Type { element, float32, sizes };

struct Signature {
    const char* name;
    std::vector<Type> inputs, outputs;
    Make cpu;   // Null where there is none, and its body does.
    Make cuda;  // Null also where the library was built without kernels for GPUs.
    // The output shapes, each as sizes of inputs; empty where an input's number of axes is not known.
    void (*infer)(Ort::ShapeInferContext& context, Ort::ShapeInferContext::Shape (&shapes)[2]);
    std::size_t required = inputs.size();  // Inputs after these may be left out.
    std::vector<Element> elements = {Element::float32, Element::float16, Element::bfloat16};  // That there are kernels for.
    bool in_place = false;  // The first output may take the memory of the first input.

    // Whether there are kernels for several types.
    bool is_generic() const { return std::find(inputs.begin(), inputs.end(), Type::element) != inputs.end(); }
};

// The same, and ONNX Runtime may hand over the first input's memory for the first output.
inline Signature in_place(Signature signature) {
    signature.in_place = true;
    return signature;
}

extern const Signature kGramMatrix, kGramMatrixGrad, kTotalVariation, kMaxPool, kMaxPoolGrad, kConvolution,
    kConvolutionRelu, kConvolutionReluGrad, kReflectedConvolution, kTransposedConvolution, kTransposedConvolutionRelu,
    kNhwcConvolution, kNhwcConvolutionRelu, kNhwcConvolutionPRelu, kNhwcConvolutionSum, kNhwcTransposedConvolution,
    kNhwcTransposedConvolutionRelu, kNhwcTransposedConvolutionPRelu, kNhwcTransposedConvolutionSum,
    kNhwcDepthwiseConvolution, kNhwcDepthwiseConvolutionRelu, kNhwcDepthwiseConvolutionPRelu, kNhwcDepthwiseTransposed,
    kNhwcDepthwiseTransposedRelu, kNhwcDepthwiseTransposedPRelu, kNhwcPRelu, kNhwcClip, kNhwcMaxPool, kNhwcAffine,
    kNhwcAffineSum, kNhwcAffinePRelu, kNhwcAffineSumPRelu, kNhwcAffineSilu, kNhwcAffineSumSilu, kNhwcGroupNorm,
    kNhwcGroupNormSilu, kNhwcLayerNorm, kNhwcRmsNorm, kNhwcGate, kNhwcGlu, kInstanceNorm, kInstanceNormRelu,
    kInstanceNormSum, kBorderedBlocks, kBiasRelu, kSizes;

#ifdef GANTK_HAS_CUDA
extern const Signature kToPicture;  // On a CPU its body does.
#endif

}  // namespace gantk::onnxruntime

// SPDX-License-Identifier: Apache-2.0
// The domain `gantk` for any ONNX Runtime application: RegisterCustomOps is what
// SessionOptions.register_custom_ops_library looks for.
#include <algorithm>
#include <initializer_list>
#include <memory>
#include <vector>

#include "kernel.hpp"

namespace gantk::onnxruntime {
namespace {

constexpr const char* kDomain = "gantk";

constexpr ONNXTensorElementDataType onnx_type(Element element) {
    switch (element) {
        case Element::float32:
            return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
        case Element::float16:
            return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
        case Element::bfloat16:
            return ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
    }
    return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

// One kernel in ONNX Runtime's table: an operator for one type on one provider. Those of one name are one
// operator.
class Operator : public Ort::CustomOpBase<Operator, Kernel, true> {
  public:
    Operator(const Signature& signature, Element element, const char* provider, Make make)
        : signature_(&signature), element_(element), provider_(provider), make_(make) {
        InferOutputShapeFn = &Operator::infer;
        if (!signature.in_place) return;
        GetMayInplace = &Operator::places;
        ReleaseMayInplace = [](int*, int*) {};
    }

    OrtStatusPtr CreateKernelV2(const OrtApi&, const OrtKernelInfo* info, void** kernel) const noexcept {
        return guarded([&] { *kernel = make_({info, element_}).release(); });
    }
    const char* GetName() const { return signature_->name; }
    const char* GetExecutionProviderType() const { return provider_; }
    std::size_t GetInputTypeCount() const { return signature_->inputs.size(); }
    std::size_t GetOutputTypeCount() const { return signature_->outputs.size(); }
    OrtCustomOpInputOutputCharacteristic GetInputCharacteristic(std::size_t index) const {
        return index < signature_->required ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
    }
    OrtMemType GetInputMemoryType(std::size_t index) const {
        return signature_->inputs[index] == Type::sizes ? OrtMemTypeCPUInput : OrtMemTypeDefault;
    }
    ONNXTensorElementDataType GetInputType(std::size_t index) const {
        return resolved(signature_->inputs[index], onnx_type(element_));
    }
    ONNXTensorElementDataType GetOutputType(std::size_t index) const {
        return resolved(signature_->outputs[index], onnx_type(element_));
    }

  private:
    static ONNXTensorElementDataType resolved(Type type, ONNXTensorElementDataType element) {
        switch (type) {
            case Type::sizes:
                return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
            case Type::float32:
                return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
            case Type::element:
                break;
        }
        return element;
    }

    // ONNX Runtime asks one of the operators of a name for all of them: what it is registered for says
    // nothing of the types at hand.
    static OrtStatusPtr infer(const OrtCustomOp* self, OrtShapeInferContext* context) {
        const Signature& signature = *static_cast<const Operator*>(self)->signature_;
        return guarded([&] {
            Ort::ShapeInferContext wrapped(&Ort::GetApi(), context);
            Ort::ShapeInferContext::Shape shapes[2];
            signature.infer(wrapped, shapes);
            const auto element = std::find(signature.inputs.begin(), signature.inputs.end(), Type::element);
            const auto given = signature.is_generic() ? type_of(context, element - signature.inputs.begin())
                                                      : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
            for (std::size_t index = 0; index < signature.outputs.size(); ++index) {
                const auto type = resolved(signature.outputs[index], given);
                if (is_told(shapes[index])) Ort::ThrowOnError(wrapped.SetOutputShape(index, shapes[index], type));
            }
        });
    }

    // ONNX Runtime takes the -1 of a size that is not known for a size: two of them would be alike.
    static bool is_told(const Ort::ShapeInferContext::Shape& shape) {
        return !shape.empty() && std::all_of(shape.begin(), shape.end(), [](const auto& size) {
            return !size.IsInt() || size.AsInt() >= 0;
        });
    }

    // Where the first input is not read again, its memory is warm, and half as much is touched.
    static std::size_t places(int** inputs, int** outputs) {
        static int first = 0;
        *inputs = *outputs = &first;
        return 1;
    }

    static ONNXTensorElementDataType type_of(OrtShapeInferContext* context, std::ptrdiff_t input) {
        OrtTensorTypeAndShapeInfo* info = nullptr;  // Belongs to the context.
        ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
        Ort::ThrowOnError(Ort::GetApi().ShapeInferContext_GetInputTypeShape(
            context, static_cast<std::size_t>(input), &info));
        Ort::ThrowOnError(Ort::GetApi().GetTensorElementType(info, &type));
        return type;
    }

    const Signature* signature_;
    Element element_;
    const char* provider_;
    Make make_;
};

// An operator that is known has no body any more: without a kernel for GPUs it takes its data to the CPU and
// back. So a session for a GPU says `gantk.cpu_only` = 0 before it asks for the operators.
bool wants_cpu_only(const OrtSessionOptions* options) {
    Ort::ConstSessionOptions wrapped(options);
    return wrapped.GetConfigEntryOrDefault("gantk.cpu_only", "1") != "0";
}

// Lives as long as the process: sessions keep pointers to it.
struct Domain {
    std::vector<std::unique_ptr<Operator>> operators;
    Ort::CustomOpDomain domain{kDomain};

    explicit Domain(bool cpu_only) {
        if (cpu_only || kGramMatrix.cuda) add({&kGramMatrix, &kGramMatrixGrad, &kTotalVariation});
        if (cpu_only)
            add({&kMaxPool, &kMaxPoolGrad, &kConvolution, &kConvolutionRelu, &kReflectedConvolution,
                 &kConvolutionReluGrad, &kTransposedConvolution, &kTransposedConvolutionRelu, &kNhwcConvolution,
                 &kNhwcConvolutionRelu, &kNhwcConvolutionPRelu, &kNhwcConvolutionSum, &kNhwcTransposedConvolution,
                 &kNhwcTransposedConvolutionRelu, &kNhwcTransposedConvolutionPRelu, &kNhwcTransposedConvolutionSum,
                 &kNhwcDepthwiseConvolution, &kNhwcDepthwiseConvolutionRelu, &kNhwcDepthwiseConvolutionPRelu,
                 &kNhwcDepthwiseTransposed, &kNhwcDepthwiseTransposedRelu, &kNhwcDepthwiseTransposedPRelu,
                 &kNhwcPRelu, &kNhwcClip, &kNhwcMaxPool, &kNhwcAffine, &kNhwcAffineSum, &kNhwcAffinePRelu,
                 &kNhwcAffineSumPRelu, &kNhwcAffineSilu, &kNhwcAffineSumSilu, &kNhwcGroupNorm, &kNhwcGroupNormSilu,
                 &kNhwcLayerNorm, &kNhwcRmsNorm, &kNhwcGate, &kNhwcGlu});
        if (cpu_only || kInstanceNorm.cuda)
            add({&kInstanceNorm, &kInstanceNormRelu, &kInstanceNormSum, &kBorderedBlocks, &kBiasRelu});
#ifdef GANTK_HAS_CUDA
        if (!cpu_only) add({&kToPicture});
#endif
        add({&kSizes});
    }

    void add(std::initializer_list<const Signature*> signatures) {
        for (const Signature* signature : signatures)
            for (const Element element : signature->elements) {
                if (element != Element::float32 && !signature->is_generic()) continue;
                if (signature->cpu) add(*signature, element, "CPUExecutionProvider", signature->cpu);
                if (signature->cuda) add(*signature, element, "CUDAExecutionProvider", signature->cuda);
            }
    }

    void add(const Signature& signature, Element element, const char* provider, Make make) {
        operators.push_back(std::make_unique<Operator>(signature, element, provider, make));
        domain.Add(operators.back().get());
    }
};

}  // namespace
}  // namespace gantk::onnxruntime

extern "C" __attribute__((visibility("default"))) OrtStatus* ORT_API_CALL
RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
    const OrtApi* const api = base->GetApi(ORT_API_VERSION);
    if (api == nullptr) {  // ONNX Runtime has printed which version it is.
        const OrtApi* const oldest = base->GetApi(1);
        return oldest->CreateStatus(ORT_NOT_IMPLEMENTED,
                                    "gantk's operators were built for a later ONNX Runtime");
    }
    Ort::InitApi(api);
    return gantk::onnxruntime::guarded([&] {
        using gantk::onnxruntime::Domain;
        static const auto *const whole = new Domain(true), *const without = new Domain(false);
        const auto* const domain = gantk::onnxruntime::wants_cpu_only(options) ? whole : without;
        Ort::UnownedSessionOptions(options).Add(domain->domain);
    });
}

// SPDX-License-Identifier: Apache-2.0
// Convolution3x3 (features float32[N, C, H, W], weights float32[K, C, 3, 3], bias float32[K]?)
//     => (result float32[N, K, H, W])
// Convolution3x3Relu: the same, and negative results become 0.
#include <new>

#include "../cpu/winograd.hpp"
#include "kernel.hpp"

namespace gantk::onnxruntime {
namespace {

Shape weights_shape(const Ort::ConstValue& weights) {
    const Shape shape = shape_of(weights, "weights", 4, false, "K x C x 3 x 3");
    if (shape[2] != 3 || shape[3] != 3)
        throw Error("weights have shape " + text_of(shape) + "; K x C x 3 x 3 is wanted");
    return shape;
}

// Weights as Winograd's convolution wants them.
class Transformed {
  public:
    Transformed() = default;
    Transformed(const Ort::ConstValue& weights, const cpu::Memory& memory, const cpu::Parallel& parallel)
        : memory_(memory) {
        const Shape shape = weights_shape(weights);
        const std::size_t bytes = cpu::winograd_weights_bytes(shape[1], shape[0]);
        data_ = static_cast<float*>(memory.take(memory.owner, bytes));
        if (data_ == nullptr)
            throw std::runtime_error("there is no memory for weights of " + std::to_string(bytes) + " bytes");
        cpu::winograd_weights(shape[1], shape[0], weights.GetTensorData<float>(), data_, parallel);
    }
    Transformed(const Transformed&) = delete;
    ~Transformed() {
        if (data_ != nullptr) memory_.give(memory_.owner, data_);
    }

    const float* data() const { return data_; }

  private:
    cpu::Memory memory_{};
    float* data_ = nullptr;
};

// Without a call there are no threads yet.
constexpr cpu::Parallel kAlone{[](void*, cpu::Task task, std::size_t count, void* data) {
                                   for (std::size_t index = 0; index < count; ++index) task(data, index);
                               },
                               nullptr};

constexpr std::align_val_t kAlignment{64};
constexpr cpu::Memory kHeap{
    [](void*, std::size_t bytes) -> void* { return ::operator new(bytes, kAlignment, std::nothrow); },
    [](void*, void* block) { ::operator delete(block, kAlignment); }, nullptr};

// Weights that a file stores are transformed once, others in every call.
class ConvolutionCpu : public Kernel {
  public:
    ConvolutionCpu(const Making& making, bool relu) : relu_(relu) {
        int constant = 0;
        const Ort::ConstValue weights =
            Ort::ConstKernelInfo(making.info).GetTensorConstantInput(1, &constant);
        if (constant != 0) kept_ = std::make_unique<Transformed>(weights, kHeap, kAlone);
    }

    void compute(Ort::KernelContext& context) const override {
        const auto features = context.GetInput(0), weights = context.GetInput(1);
        const Shape given = shape_of(features, "features", 4, false, "N x C x H x W");
        const Shape kernels = weights_shape(weights);
        if (kernels[1] != given[1])
            throw Error("weights have shape " + text_of(kernels) + "; [K, " + std::to_string(given[1]) +
                        ", 3, 3] belongs to features " + text_of(given));
        const float* const bias = bias_of(context, kernels);
        const TaskMemory memory(context);
        const cpu::Parallel threads = threads_of(context);
        std::unique_ptr<Transformed> made;
        if (kept_ == nullptr) made = std::make_unique<Transformed>(weights, memory.memory(), threads);
        auto result = context.GetOutput(0, {given[0], kernels[0], given[2], given[3]});
        cpu::winograd_convolution({given[0], given[1], kernels[0], given[2], given[3]},
                                  features.GetTensorData<float>(), (made ? made : kept_)->data(), bias, relu_,
                                  result.GetTensorMutableData<float>(), memory.memory(), threads);
    }

  private:
    static const float* bias_of(Ort::KernelContext& context, const Shape& weights) {
        if (context.GetInputCount() < 3) return nullptr;
        const auto bias = context.GetInput(2);
        if (static_cast<const OrtValue*>(bias) == nullptr) return nullptr;
        const Shape shape = bias.GetTensorTypeAndShapeInfo().GetShape(), wanted{weights[0]};
        if (shape != wanted)
            throw Error("the bias has shape " + text_of(shape) + "; " + text_of(wanted) +
                        " belongs to weights " + text_of(weights));
        return bias.GetTensorData<float>();
    }

    bool relu_;
    std::unique_ptr<Transformed> kept_;
};

template <bool kRelu>
std::unique_ptr<Kernel> make(const Making& making) {
    return std::make_unique<ConvolutionCpu>(making, kRelu);
}

void infer(Ort::ShapeInferContext& context, Ort::ShapeInferContext::Shape (&shapes)[2]) {
    const auto &features = context.GetInputShape(0), &weights = context.GetInputShape(1);
    if (features.size() == 4 && weights.size() == 4)
        shapes[0] = {features[0], weights[0], features[2], features[3]};
}

}  // namespace

const Signature kConvolution{"Convolution3x3",
                             {Type::float32, Type::float32, Type::float32},
                             {Type::float32},
                             make<false>,
                             nullptr,
                             infer,
                             2};
const Signature kConvolutionRelu{"Convolution3x3Relu",
                                 {Type::float32, Type::float32, Type::float32},
                                 {Type::float32},
                                 make<true>,
                                 nullptr,
                                 infer,
                                 2};

}  // namespace gantk::onnxruntime

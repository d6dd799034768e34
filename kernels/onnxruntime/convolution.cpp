// SPDX-License-Identifier: Apache-2.0
// Convolution3x3 (features float32[N, C, H, W], weights float32[K, C, 3, 3], bias float32[K]?)
//     => (result float32[N, K, H, W])
// TransposedConvolution4x4 (features float32[N, C, H, W], weights float32[C, K, 4, 4], bias float32[K]?)
//     => (result float32[N, K, 2H, 2W])
// Convolution3x3Relu, TransposedConvolution4x4Relu: the same, and negative results become 0.
#include <mutex>
#include <new>

#include "../cpu/transposed.hpp"
#include "../cpu/winograd.hpp"
#include "kernel.hpp"

namespace gantk::onnxruntime {
namespace {

using cpu::Convolution;

// Of a transposed convolution with fewer tiles of features, most of the time goes into reading weights.
constexpr std::int64_t kFewTiles = 8, kTileSide = 4;

// One of the ways to convolve, and the order that it wants weights in.
struct Method {
    std::size_t (*bytes)(const Convolution&);
    void (*pack)(const Convolution&, const float*, float*, const cpu::Parallel&);
    void (*convolve)(const Convolution&, const float*, const float*, const float*, bool, float*,
                     const cpu::Memory&, const cpu::Parallel&);
};
constexpr Method kWinograd{cpu::winograd_weights_bytes, cpu::winograd_weights, cpu::winograd_convolution};
constexpr Method kProducts{cpu::transposed_weights_bytes, cpu::transposed_weights,
                           cpu::transposed_convolution};

// A convolution of weights, with nothing known of its features.
Convolution convolution_of(const Ort::ConstValue& weights, bool transposed) {
    const std::int64_t side = transposed ? 4 : 3;
    const char* const wanted = transposed ? "C x K x 4 x 4" : "K x C x 3 x 3";
    const Shape shape = shape_of(weights, "weights", 4, false, wanted);
    if (shape[2] != side || shape[3] != side)
        throw Error("weights have shape " + text_of(shape) + "; " + wanted + " is wanted");
    return {1, shape[transposed ? 0 : 1], shape[transposed ? 1 : 0], 1, 1, transposed};
}

// Weights in the order of a method.
class Packed {
  public:
    Packed(const Method& method, const Convolution& shape, const float* weights, const cpu::Memory& memory,
           const cpu::Parallel& parallel)
        : memory_(memory) {
        const std::size_t bytes = method.bytes(shape);
        data_ = static_cast<float*>(memory.take(memory.owner, bytes));
        if (data_ == nullptr)
            throw std::runtime_error("there is no memory for weights of " + std::to_string(bytes) + " bytes");
        method.pack(shape, weights, data_, parallel);
    }
    Packed(const Packed&) = delete;
    ~Packed() { memory_.give(memory_.owner, data_); }

    const float* data() const { return data_; }

  private:
    cpu::Memory memory_;
    float* data_ = nullptr;
};

constexpr std::align_val_t kAlignment{64};
constexpr cpu::Memory kHeap{
    [](void*, std::size_t bytes) -> void* { return ::operator new(bytes, kAlignment, std::nothrow); },
    [](void*, void* block) { ::operator delete(block, kAlignment); }, nullptr};

// Weights that a file stores are packed once, by the first call that wants them so; others in every call.
class ConvolutionCpu : public Kernel {
  public:
    ConvolutionCpu(const Making& making, bool transposed, bool relu) : transposed_(transposed), relu_(relu) {
        int constant = 0;
        const auto weights = Ort::ConstKernelInfo(making.info).GetTensorConstantInput(1, &constant);
        stored_ = constant != 0;
        if (stored_) convolution_of(weights, transposed);  // Wrong ones are told now.
    }

    void compute(Ort::KernelContext& context) const override {
        const auto features = context.GetInput(0), weights = context.GetInput(1);
        const Convolution shape = whole_shape(features, weights);
        const float* const bias = bias_of(context, shape);
        auto result = context.GetOutput(
            0, {shape.count, shape.outputs, shape.scale() * shape.height, shape.scale() * shape.width});
        const bool few = transposed_ && tiles_of(shape) < kFewTiles;
        const Method& method = few ? kProducts : kWinograd;
        const TaskMemory memory(context);
        const cpu::Parallel threads = threads_of(context);
        const auto pack = [&](const cpu::Memory& where) {
            return std::make_unique<Packed>(method, shape, weights.GetTensorData<float>(), where, threads);
        };
        Kept& kept = kept_[few];
        std::unique_ptr<Packed> made;
        if (stored_)
            std::call_once(kept.once, [&] { kept.weights = pack(kHeap); });
        else
            made = pack(memory.memory());
        method.convolve(shape, features.GetTensorData<float>(), (stored_ ? kept.weights : made)->data(), bias,
                        relu_, result.GetTensorMutableData<float>(), memory.memory(), threads);
    }

  private:
    Convolution whole_shape(const Ort::ConstValue& features, const Ort::ConstValue& weights) const {
        const Shape given = shape_of(features, "features", 4, false, "N x C x H x W");
        const Convolution shape = convolution_of(weights, transposed_);
        if (shape.inputs != given[1])
            throw Error("weights have shape " + text_of(weights.GetTensorTypeAndShapeInfo().GetShape()) +
                        "; " + (transposed_ ? "[" : "[K, ") + std::to_string(given[1]) +
                        (transposed_ ? ", K, 4, 4]" : ", 3, 3]") + " belongs to features " + text_of(given));
        return {given[0], shape.inputs, shape.outputs, given[2], given[3], transposed_};
    }

    static const float* bias_of(Ort::KernelContext& context, const Convolution& convolution) {
        if (context.GetInputCount() < 3) return nullptr;
        const auto bias = context.GetInput(2);
        if (static_cast<const OrtValue*>(bias) == nullptr) return nullptr;
        const Shape shape = bias.GetTensorTypeAndShapeInfo().GetShape(), wanted{convolution.outputs};
        if (shape != wanted)
            throw Error("the bias has shape " + text_of(shape) + "; " + text_of(wanted) +
                        " belongs to weights of " + std::to_string(convolution.outputs) + " outputs");
        return bias.GetTensorData<float>();
    }

    static std::int64_t tiles_of(const Convolution& shape) {
        const auto tiles = [](std::int64_t size) { return (size + kTileSide - 1) / kTileSide; };
        return shape.count * tiles(shape.height) * tiles(shape.width);
    }

    struct Kept {
        std::once_flag once;
        std::unique_ptr<Packed> weights;
    };

    bool transposed_, relu_, stored_;
    mutable Kept kept_[2];
};

template <bool kTransposed, bool kRelu>
std::unique_ptr<Kernel> make(const Making& making) {
    return std::make_unique<ConvolutionCpu>(making, kTransposed, kRelu);
}

void infer(Ort::ShapeInferContext& context, Ort::ShapeInferContext::Shape (&shapes)[2]) {
    const auto &features = context.GetInputShape(0), &weights = context.GetInputShape(1);
    if (features.size() == 4 && weights.size() == 4)
        shapes[0] = {features[0], weights[0], features[2], features[3]};
}

// Twice a size that is not known yet has no name.
void infer_transposed(Ort::ShapeInferContext& context, Ort::ShapeInferContext::Shape (&shapes)[2]) {
    const auto &features = context.GetInputShape(0), &weights = context.GetInputShape(1);
    if (features.size() == 4 && weights.size() == 4 && features[2].IsInt() && features[3].IsInt())
        shapes[0] = {features[0], weights[1], 2 * features[2].AsInt(), 2 * features[3].AsInt()};
}

template <bool kTransposed, bool kRelu>
Signature signature(const char* name) {
    return {name,
            {Type::float32, Type::float32, Type::float32},
            {Type::float32},
            make<kTransposed, kRelu>,
            nullptr,
            kTransposed ? infer_transposed : infer,
            2};
}

}  // namespace

const Signature kConvolution = signature<false, false>("Convolution3x3");
const Signature kConvolutionRelu = signature<false, true>("Convolution3x3Relu");
const Signature kTransposedConvolution = signature<true, false>("TransposedConvolution4x4");
const Signature kTransposedConvolutionRelu = signature<true, true>("TransposedConvolution4x4Relu");

}  // namespace gantk::onnxruntime

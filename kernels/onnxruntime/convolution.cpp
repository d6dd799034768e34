// SPDX-License-Identifier: Apache-2.0
// Convolution3x3 (features float32[N, C, H, W], weights float32[K, C, 3, 3], bias float32[K]?)
//     => (result float32[N, K, H, W])
// TransposedConvolution4x4 (features float32[N, C, H, W], weights float32[C, K, 4, 4], bias float32[K]?)
//     => (result float32[N, K, 2H, 2W])
// Convolution3x3Relu, TransposedConvolution4x4Relu: the same, and negative results become 0.
// ReflectedConvolution3x3: as Convolution3x3, with a border of the second row and column and of the last but one
// MaskedConvolution3x3 (values float32[N, C, H, W], mask float32[N, C, H, W], weights float32[K, C, 3, 3])
//     => (result float32[N, K, H, W]), of values where the mask is above 0, and of 0 elsewhere
#include <mutex>

#include "../cpu/transposed.hpp"
#include "../cpu/winograd.hpp"
#include "buffers.hpp"
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
    void (*convolve)(const Convolution&, const cpu::Tensors&, const cpu::Memory&, const cpu::Parallel&);
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

constexpr cpu::Memory kOwn{[](void*, std::size_t bytes) { return allocate(bytes).release(); },
                           [](void*, void* block) { Free{}(block); }, nullptr};

enum class Kind { plain, reflected, masked, transposed };

// Weights that a file stores are packed once, by the first call that wants them so; others in every call.
class ConvolutionCpu : public Kernel {
  public:
    ConvolutionCpu(const Making& making, Kind kind, bool relu)
        : masked_(kind == Kind::masked),
          reflected_(kind == Kind::reflected),
          transposed_(kind == Kind::transposed),
          relu_(relu) {
        int constant = 0;
        const auto weights =
            Ort::ConstKernelInfo(making.info).GetTensorConstantInput(weights_at(), &constant);
        stored_ = constant != 0;
        if (stored_) convolution_of(weights, transposed_);  // Wrong ones are told now.
    }

    void compute(Ort::KernelContext& context) const override {
        const auto features = context.GetInput(0), weights = context.GetInput(weights_at());
        const Convolution shape = whole_shape(features, weights);
        cpu::Tensors tensors{features.GetTensorData<float>(), nullptr, nullptr, bias_of(context, shape),
                             relu_,                           mask_of(context, features)};
        auto result = context.GetOutput(
            0, {shape.count, shape.outputs, shape.scale() * shape.height, shape.scale() * shape.width});
        tensors.result = result.GetTensorMutableData<float>();
        const bool few = transposed_ && tiles_of(shape) < kFewTiles;
        const Method& method = few ? kProducts : kWinograd;
        const cpu::Memory memory = buffers_->memory();
        const cpu::Parallel threads = threads_of(context);
        const auto pack = [&](const cpu::Memory& where) {
            return std::make_unique<Packed>(method, shape, weights.GetTensorData<float>(), where, threads);
        };
        Kept& kept = kept_[few];
        std::unique_ptr<Packed> made;
        if (stored_)
            std::call_once(kept.once, [&] { kept.weights = pack(kOwn); });
        else
            made = pack(memory);
        tensors.packed = (stored_ ? kept.weights : made)->data();
        method.convolve(shape, tensors, memory, threads);
    }

  private:
    std::size_t weights_at() const { return masked_ ? 2 : 1; }

    Convolution whole_shape(const Ort::ConstValue& features, const Ort::ConstValue& weights) const {
        const Shape given = shape_of(features, masked_ ? "values" : "features", 4, false, "N x C x H x W");
        const Convolution shape = convolution_of(weights, transposed_);
        if (shape.inputs != given[1])
            throw Error("weights have shape " + text_of(weights.GetTensorTypeAndShapeInfo().GetShape()) +
                        "; " + (transposed_ ? "[" : "[K, ") + std::to_string(given[1]) +
                        (transposed_ ? ", K, 4, 4]" : ", 3, 3]") + " belongs to features " + text_of(given));
        if (reflected_ && (given[2] < 2 || given[3] < 2))
            throw Error("features have shape " + text_of(given) +
                        "; a border is reflected from at least 2 rows and 2 columns");
        return {given[0], shape.inputs, shape.outputs, given[2], given[3], transposed_, reflected_};
    }

    const float* bias_of(Ort::KernelContext& context, const Convolution& convolution) const {
        if (masked_ || context.GetInputCount() < 3) return nullptr;
        const auto bias = context.GetInput(2);
        if (static_cast<const OrtValue*>(bias) == nullptr) return nullptr;
        const Shape shape = bias.GetTensorTypeAndShapeInfo().GetShape(), wanted{convolution.outputs};
        if (shape != wanted)
            throw Error("the bias has shape " + text_of(shape) + "; " + text_of(wanted) +
                        " belongs to weights of " + std::to_string(convolution.outputs) + " outputs");
        return bias.GetTensorData<float>();
    }

    const float* mask_of(Ort::KernelContext& context, const Ort::ConstValue& values) const {
        if (!masked_) return nullptr;
        const auto mask = context.GetInput(1);
        const Shape shape = mask.GetTensorTypeAndShapeInfo().GetShape();
        const Shape wanted = values.GetTensorTypeAndShapeInfo().GetShape();
        if (shape != wanted)
            throw Error("the mask has shape " + text_of(shape) + "; that of the values, " + text_of(wanted) +
                        ", is wanted");
        return mask.GetTensorData<float>();
    }

    static std::int64_t tiles_of(const Convolution& shape) {
        const auto tiles = [](std::int64_t size) { return cpu::divide_up(size, kTileSide); };
        return shape.count * tiles(shape.height) * tiles(shape.width);
    }

    struct Kept {
        std::once_flag once;
        std::unique_ptr<Packed> weights;
    };

    bool masked_, reflected_, transposed_, relu_, stored_;
    std::shared_ptr<Buffers> buffers_ = Buffers::shared();
    mutable Kept kept_[2];
};

template <Kind kKind, bool kRelu>
std::unique_ptr<Kernel> make(const Making& making) {
    return std::make_unique<ConvolutionCpu>(making, kKind, kRelu);
}

template <std::size_t kWeightsAt>
void infer(Ort::ShapeInferContext& context, Ort::ShapeInferContext::Shape (&shapes)[2]) {
    const auto &features = context.GetInputShape(0), &weights = context.GetInputShape(kWeightsAt);
    if (features.size() == 4 && weights.size() == 4)
        shapes[0] = {features[0], weights[0], features[2], features[3]};
}

// Twice a size that is not known yet has no name.
void infer_transposed(Ort::ShapeInferContext& context, Ort::ShapeInferContext::Shape (&shapes)[2]) {
    const auto &features = context.GetInputShape(0), &weights = context.GetInputShape(1);
    if (features.size() == 4 && weights.size() == 4 && features[2].IsInt() && features[3].IsInt())
        shapes[0] = {features[0], weights[1], 2 * features[2].AsInt(), 2 * features[3].AsInt()};
}

template <Kind kKind, bool kRelu>
Signature signature(const char* name) {
    constexpr bool kMasked = kKind == Kind::masked;
    return {name,
            {Type::float32, Type::float32, Type::float32},
            {Type::float32},
            make<kKind, kRelu>,
            nullptr,
            kKind == Kind::transposed ? infer_transposed : infer<kMasked ? 2 : 1>,
            kMasked ? 3 : 2};
}

}  // namespace

const Signature kConvolution = signature<Kind::plain, false>("Convolution3x3");
const Signature kConvolutionRelu = signature<Kind::plain, true>("Convolution3x3Relu");
const Signature kReflectedConvolution = signature<Kind::reflected, false>("ReflectedConvolution3x3");
const Signature kMaskedConvolution = signature<Kind::masked, false>("MaskedConvolution3x3");
const Signature kTransposedConvolution = signature<Kind::transposed, false>("TransposedConvolution4x4");
const Signature kTransposedConvolutionRelu = signature<Kind::transposed, true>("TransposedConvolution4x4Relu");

}  // namespace gantk::onnxruntime

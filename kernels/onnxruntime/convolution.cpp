// SPDX-License-Identifier: Apache-2.0
// Convolution3x3 (features float32[N, C, H, W], weights float32[K, C, 3, 3], bias float32[K]?)
//     => (result float32[N, K, H, W])
// TransposedConvolution4x4 (features float32[N, C, H, W], weights float32[C, K, 4, 4], bias float32[K]?)
//     => (result float32[N, K, 2H, 2W])
// Convolution3x3Relu, TransposedConvolution4x4Relu: the same, and negative results become 0.
// ReflectedConvolution3x3: as Convolution3x3, with a border of the second row and column and of the last but one
// Convolution3x3ReluGrad (gradient float32[N, K, H, W], result float32[N, K, H, W], weights float32[K, C, 3, 3])
//     => (features_gradient float32[N, C, H, W])
#include "../cpu/transposed.hpp"
#include "../cpu/winograd.hpp"
#include "buffers.hpp"
#include "kernel.hpp"
#include "packed.hpp"

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

// The convolution that weights are packed for, with nothing known of its features.
Convolution convolution_of(const Ort::ConstValue& weights, bool transposed) {
    const std::int64_t side = transposed ? 4 : 3;
    const char* const wanted = transposed ? "C x K x 4 x 4" : "K x C x 3 x 3";
    const Shape shape = shape_of(weights, "weights", 4, false, wanted);
    if (shape[2] != side || shape[3] != side)
        throw Error("weights have shape " + text_of(shape) + "; " + wanted + " is wanted");
    return {1, shape[transposed ? 0 : 1], shape[transposed ? 1 : 0], 1, 1, transposed};
}

enum class Kind { plain, reflected, gradient, transposed };

// Weights that no file stores are packed in every call.
class ConvolutionCpu : public Kernel {
  public:
    ConvolutionCpu(const Making& making, Kind kind, bool relu) : kind_(kind), relu_(relu) {
        int constant = 0;
        const auto weights =
            Ort::ConstKernelInfo(making.info).GetTensorConstantInput(weights_at(), &constant);
        if (constant == 0) return;
        convolution_of(weights, transposed());  // Wrong ones are told now.
        const std::string_view bytes(static_cast<const char*>(weights.GetTensorRawData()),
                                     weights.GetTensorTypeAndShapeInfo().GetElementCount() * sizeof(float));
        stored_[0] = Stored::at(bytes, &kWinograd);
        if (transposed()) stored_[1] = Stored::at(bytes, &kProducts);
    }

    void compute(Ort::KernelContext& context) const override {
        const auto features = context.GetInput(0), weights = context.GetInput(weights_at());
        const Convolution packed = convolution_of(weights, transposed());
        const Convolution shape = whole_shape(features, weights, packed);
        cpu::Tensors tensors{features.GetTensorData<float>(), nullptr, nullptr, bias_of(context, shape),
                             relu_,                           mask_of(context, features)};
        auto result = context.GetOutput(
            0, {shape.count, shape.outputs, shape.scale() * shape.height, shape.scale() * shape.width});
        tensors.result = result.GetTensorMutableData<float>();
        const bool few = transposed() && tiles_of(shape) < kFewTiles;
        const Method& method = few ? kProducts : kWinograd;
        const cpu::Memory memory = buffers_->memory();
        const cpu::Parallel threads = threads_of(context);
        const auto pack = [&](const cpu::Memory& where) {
            return std::make_unique<Packed>(method.bytes(packed), where, [&](void* data) {
                method.pack(packed, weights.GetTensorData<float>(), static_cast<float*>(data), threads);
            });
        };
        std::unique_ptr<Packed> made;
        const void* const data = stored_[few] ? stored_[few]->data(pack) : (made = pack(memory))->data();
        tensors.packed = static_cast<const float*>(data);
        method.convolve(shape, tensors, memory, threads);
    }

  private:
    bool transposed() const { return kind_ == Kind::transposed; }
    bool gradient() const { return kind_ == Kind::gradient; }
    std::size_t weights_at() const { return gradient() ? 2 : 1; }

    Convolution whole_shape(const Ort::ConstValue& features, const Ort::ConstValue& weights,
                            const Convolution& packed) const {
        const char* const wanted = gradient() ? "N x K x H x W" : "N x C x H x W";
        const Shape given = shape_of(features, gradient() ? "gradients" : "features", 4, false, wanted);
        const std::int64_t before = gradient() ? packed.outputs : packed.inputs,
                           after = gradient() ? packed.inputs : packed.outputs;
        if (before != given[1]) {
            const std::string channels = std::to_string(given[1]);
            const std::string fitting = transposed()   ? "[" + channels + ", K, 4, 4]"
                                        : gradient() ? "[" + channels + ", C, 3, 3]"
                                                     : "[K, " + channels + ", 3, 3]";
            throw Error("weights have shape " + text_of(weights.GetTensorTypeAndShapeInfo().GetShape()) + "; " +
                        fitting + " belongs to " + (gradient() ? "gradients " : "features ") + text_of(given));
        }
        const bool reflected = kind_ == Kind::reflected;
        if (reflected && (given[2] < 2 || given[3] < 2))
            throw Error("features have shape " + text_of(given) +
                        "; a border is reflected from at least 2 rows and 2 columns");
        return {given[0], before, after, given[2], given[3], transposed(), reflected, gradient()};
    }

    const float* bias_of(Ort::KernelContext& context, const Convolution& convolution) const {
        if (gradient() || context.GetInputCount() < 3) return nullptr;
        const auto bias = context.GetInput(2);
        if (static_cast<const OrtValue*>(bias) == nullptr) return nullptr;
        const Shape shape = bias.GetTensorTypeAndShapeInfo().GetShape(), wanted{convolution.outputs};
        if (shape != wanted)
            throw Error("the bias has shape " + text_of(shape) + "; " + text_of(wanted) +
                        " belongs to weights of " + std::to_string(convolution.outputs) + " outputs");
        return bias.GetTensorData<float>();
    }

    // The gradient of a ReLU's results is that of its sums where those were above 0.
    const float* mask_of(Ort::KernelContext& context, const Ort::ConstValue& slopes) const {
        if (!gradient()) return nullptr;
        const auto result = context.GetInput(1);
        const Shape shape = result.GetTensorTypeAndShapeInfo().GetShape();
        const Shape wanted = slopes.GetTensorTypeAndShapeInfo().GetShape();
        if (shape != wanted)
            throw Error("the result has shape " + text_of(shape) + "; that of its gradient, " + text_of(wanted) +
                        ", is wanted");
        return result.GetTensorData<float>();
    }

    static std::int64_t tiles_of(const Convolution& shape) {
        const auto tiles = [](std::int64_t size) { return cpu::divide_up(size, kTileSide); };
        return shape.count * tiles(shape.height) * tiles(shape.width);
    }

    Kind kind_;
    bool relu_;
    std::shared_ptr<Buffers> buffers_ = Buffers::shared();
    std::shared_ptr<Stored> stored_[2];  // For Winograd's method and for products; null where no file stores them.
};

template <Kind kKind, bool kRelu>
std::unique_ptr<Kernel> make(const Making& making) {
    return std::make_unique<ConvolutionCpu>(making, kKind, kRelu);
}

// Kernels are [K, C, 3, 3]: a convolution makes K channels, its gradient C.
template <bool kGradient>
void infer(Ort::ShapeInferContext& context, Ort::ShapeInferContext::Shape (&shapes)[2]) {
    const auto &features = context.GetInputShape(0), &weights = context.GetInputShape(kGradient ? 2 : 1);
    if (features.size() == 4 && weights.size() == 4)
        shapes[0] = {features[0], weights[kGradient ? 1 : 0], features[2], features[3]};
}

// Twice a size that is not known yet has no name.
void infer_transposed(Ort::ShapeInferContext& context, Ort::ShapeInferContext::Shape (&shapes)[2]) {
    const auto &features = context.GetInputShape(0), &weights = context.GetInputShape(1);
    if (features.size() == 4 && weights.size() == 4 && features[2].IsInt() && features[3].IsInt())
        shapes[0] = {features[0], weights[1], 2 * features[2].AsInt(), 2 * features[3].AsInt()};
}

template <Kind kKind, bool kRelu>
Signature signature(const char* name) {
    constexpr bool kGradient = kKind == Kind::gradient;
    return {name,
            {Type::float32, Type::float32, Type::float32},
            {Type::float32},
            make<kKind, kRelu>,
            nullptr,
            kKind == Kind::transposed ? infer_transposed : infer<kGradient>,
            kGradient ? 3 : 2};
}

}  // namespace

const Signature kConvolution = signature<Kind::plain, false>("Convolution3x3");
const Signature kConvolutionRelu = signature<Kind::plain, true>("Convolution3x3Relu");
const Signature kReflectedConvolution = signature<Kind::reflected, false>("ReflectedConvolution3x3");
const Signature kConvolutionReluGrad = signature<Kind::gradient, false>("Convolution3x3ReluGrad");
const Signature kTransposedConvolution = signature<Kind::transposed, false>("TransposedConvolution4x4");
const Signature kTransposedConvolutionRelu = signature<Kind::transposed, true>("TransposedConvolution4x4Relu");

}  // namespace gantk::onnxruntime

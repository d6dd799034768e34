// SPDX-License-Identifier: Apache-2.0
// NhwcConvolution <strides, pads, dilations> (features T[N, H, W, C], weights T[K, C, h, w], bias T[K]?)
//     => (result T[N, H', W', K])
// NhwcTransposedConvolution4x4 <pads> (features T[N, H, W, C], weights T[C, K, 4, 4], bias T[K]?)
//     => (result T[N, 2H, 2W, K]); with pads of [1, 1, 0, 0] one row and column more, of 3 four less
// NhwcConvolutionRelu, NhwcTransposedConvolution4x4Relu: the same, and negative results become 0.
// NhwcConvolutionPRelu, NhwcTransposedConvolution4x4PRelu (..., bias, slopes T[K]): the same, and negative results are
//     multiplied with slopes.
// NhwcConvolutionSum, NhwcTransposedConvolution4x4Sum (..., bias, others T[N, H', W', K]): the same, and others are
//     added.
// T is float32 or bfloat16.
#include "../cpu/nhwc.hpp"
#include "kernel.hpp"
#include "packed.hpp"

namespace gantk::onnxruntime {
namespace {

namespace nhwc = cpu::nhwc;

// Winograd's method reads four times the weights, 6.25 times transposed: they cost more than it saves in products
// where few tiles share them, unless they stay in the second cache.
constexpr std::int64_t kFewNhwcTiles = 4, kManyNhwcTiles = 24;
constexpr std::size_t kCachedWeights = 4 << 20;

// So many of a tile's 16 results, or 64, must lie in the picture: with 9 products each, or 4, they would take more than
// its 36, or 100. Where dilations are nearly as large as the picture, few do.
constexpr std::int64_t kFewNhwcResults = 5, kFewTransposedResults = 28;

template <typename T>
bool pays(const nhwc::Convolution& shape) {
    if (!nhwc::has_winograd(shape)) return false;
    const std::int64_t tiles = nhwc::winograd_tiles(shape);
    const std::int64_t results = shape.count * shape.result_height() * shape.result_width();
    if (results < tiles * (shape.transposed ? kFewTransposedResults : kFewNhwcResults)) return false;
    return tiles >= (nhwc::winograd_weights_bytes<T>(shape) > kCachedWeights ? kManyNhwcTiles : kFewNhwcTiles);
}

// One of the ways to convolve, and the order that it wants weights in.
template <typename T>
struct Way {
    std::size_t (*bytes)(const nhwc::Convolution&);
    void (*pack)(const nhwc::Convolution&, const T*, T*, const cpu::Parallel&);
    void (*convolve)(const nhwc::Convolution&, const nhwc::Tensors<T>&, const cpu::Memory&, const cpu::Parallel&);
};
template <typename T>
constexpr Way<T> kWays[]{{nhwc::direct_weights_bytes<T>, nhwc::direct_weights<T>, nhwc::direct_convolution<T>},
                         {nhwc::winograd_weights_bytes<T>, nhwc::winograd_weights<T>, nhwc::winograd_convolution<T>}};

template <typename T>
const T* data_of(const Ort::ConstValue& value) {
    return static_cast<const T*>(value.GetTensorRawData());
}

// What becomes of results.
enum class End { none, relu, prelu, sum };

// Weights that no file stores are packed in every call.
template <typename T>
class NhwcConvolution : public Kernel {
  public:
    NhwcConvolution(const Making& making, bool transposed, End end) : transposed_(transposed), end_(end) {
        if (!transposed) {
            stride_ = of_both_axes(making.info, "strides");
            dilation_ = of_both_axes(making.info, "dilations");
        }
        if (stride_ < 1) throw Error("strides are below 1");
        if (dilation_ < 1) throw Error("dilations are below 1");
        read_pads(making.info);
        int constant = 0;
        const auto weights = Ort::ConstKernelInfo(making.info).GetTensorConstantInput(1, &constant);
        if (constant == 0) return;
        kernel_of(weights);  // Wrong ones are told now.
        for (auto& stored : stored_) stored = std::make_unique<Stored>();
    }

    void compute(Ort::KernelContext& context) const override {
        const auto features = context.GetInput(0), weights = context.GetInput(1);
        const nhwc::Convolution shape = whole_shape(features, weights);
        const Shape made_shape{shape.count, shape.result_height(), shape.result_width(), shape.outputs};
        nhwc::Tensors<T> tensors{data_of<T>(features), nullptr, nullptr, bias_of(context, shape), end_ == End::relu};
        if (end_ == End::prelu) tensors.slopes = given(context, "slopes", {shape.outputs});
        if (end_ == End::sum) tensors.others = given(context, "others", made_shape);
        auto result = context.GetOutput(0, made_shape);
        tensors.result = static_cast<T*>(result.GetTensorMutableRawData());
        const bool winograd = pays<T>(shape);
        const Way<T>& way = kWays<T>[winograd];
        const cpu::Memory memory = buffers_->memory();
        const cpu::Parallel threads = threads_of(context);
        const auto pack = [&](const cpu::Memory& where) {
            return std::make_unique<Packed>(way.bytes(shape), where, [&](void* data) {
                way.pack(shape, data_of<T>(weights), static_cast<T*>(data), threads);
            });
        };
        std::unique_ptr<Packed> made;
        const void* const data = stored_[winograd] ? stored_[winograd]->data(pack) : (made = pack(memory))->data();
        tensors.packed = static_cast<const T*>(data);
        way.convolve(shape, tensors, memory, threads);
    }

  private:
    // One number that rows and columns have, 1 if not given.
    static std::int64_t of_both_axes(const OrtKernelInfo* info, const char* name) {
        const Shape values = ints_attribute(info, name, 2);
        if (values == Shape{0, 0}) return 1;
        if (values[0] != values[1])
            throw Error(std::string("`") + name + "` are " + text_of(values) + "; alike ones are wanted");
        return values[0];
    }

    void read_pads(const OrtKernelInfo* info) {
        const Shape given = ints_attribute(info, "pads", 4), ones(4, 1), threes(4, 3), uneven{1, 1, 0, 0};
        const Shape pads = transposed_ && given == Shape(4, 0) ? ones : given;
        if (transposed_ && pads != ones && pads != uneven && pads != threes)
            throw Error("`pads` are " + text_of(pads) + "; " + text_of(ones) + ", " + text_of(uneven) + " or " +
                        text_of(threes) + " are wanted");
        if (pads[0] != pads[1] || pads[2] != pads[3])
            throw Error("`pads` are " + text_of(pads) + "; rows and columns are wanted alike");
        before_ = pads[0], after_ = pads[2];
        if (before_ < 0 || after_ < 0) throw Error("pads are below 0");
    }

    // What weights tell, with nothing known of features.
    nhwc::Convolution kernel_of(const Ort::ConstValue& weights) const {
        const char* const wanted = transposed_ ? "C x K x 4 x 4" : "K x C x h x w";
        const Shape shape = shape_of(weights, "weights", 4, false, wanted);
        if (transposed_ && (shape[2] != 4 || shape[3] != 4))
            throw Error("weights have shape " + text_of(shape) + "; " + wanted + " is wanted");
        nhwc::Convolution kernel{1, 1, 1, shape[transposed_ ? 0 : 1], shape[transposed_ ? 1 : 0]};
        kernel.kernel_height = shape[2];
        kernel.kernel_width = shape[3];
        kernel.stride = transposed_ ? 2 : stride_;
        kernel.transposed = transposed_;
        kernel.before = before_;
        kernel.after = after_;
        kernel.dilation = dilation_;
        return kernel;
    }

    nhwc::Convolution whole_shape(const Ort::ConstValue& features, const Ort::ConstValue& weights) const {
        nhwc::Convolution shape = kernel_of(weights);
        const Shape given = shape_of(features, "features", 4, false, "N x H x W x C");
        if (given[3] != shape.inputs) {
            const std::string channels = std::to_string(given[3]);
            throw Error("weights have shape " + text_of(weights.GetTensorTypeAndShapeInfo().GetShape()) + "; " +
                        (transposed_ ? "[" + channels + ", K, 4, 4]" : "[K, " + channels + ", h, w]") +
                        " belongs to features " + text_of(given));
        }
        shape.count = given[0];
        shape.height = given[1];
        shape.width = given[2];
        const std::int64_t around = before_ + after_;
        const bool holds_kernel = given[1] + around >= shape.reach_of(shape.kernel_height) &&
                                  given[2] + around >= shape.reach_of(shape.kernel_width);
        if (transposed_ ? shape.result_height() < 1 || shape.result_width() < 1 : !holds_kernel)
            throw Error("features have shape " + text_of(given) + ", which is too small for kernels of " +
                        std::to_string(shape.kernel_height) + " x " + std::to_string(shape.kernel_width) +
                        (dilation_ > 1 ? " with dilations of " + std::to_string(dilation_) : ""));
        return shape;
    }

    static const T* bias_of(Ort::KernelContext& context, const nhwc::Convolution& convolution) {
        if (context.GetInputCount() < 3) return nullptr;
        const auto bias = context.GetInput(2);
        if (static_cast<const OrtValue*>(bias) == nullptr) return nullptr;
        const Shape shape = bias.GetTensorTypeAndShapeInfo().GetShape(), wanted{convolution.outputs};
        if (shape != wanted)
            throw Error("the bias has shape " + text_of(shape) + "; " + text_of(wanted) + " belongs to weights of " +
                        std::to_string(convolution.outputs) + " outputs");
        return data_of<T>(bias);
    }

    // What the ending wants.
    static const T* given(Ort::KernelContext& context, const char* name, const Shape& wanted) {
        const auto value = context.GetInput(3);
        const Shape shape = value.GetTensorTypeAndShapeInfo().GetShape();
        if (shape != wanted)
            throw Error(std::string(name) + " have shape " + text_of(shape) + "; " + text_of(wanted) + " is wanted");
        return data_of<T>(value);
    }

    bool transposed_;
    End end_;
    std::int64_t stride_ = 1, before_ = 0, after_ = 0, dilation_ = 1;
    std::shared_ptr<Buffers> buffers_ = Buffers::shared();
    std::unique_ptr<Stored> stored_[2];  // For each way; null where no file stores them.
};

template <bool kTransposed, End kEnd>
Signature nhwc_signature(const char* name) {
    const auto make = [](const Making& making) -> std::unique_ptr<Kernel> {
        if (making.element == Element::float32)
            return std::make_unique<NhwcConvolution<float>>(making, kTransposed, kEnd);
        return std::make_unique<NhwcConvolution<nhwc::Bfloat>>(making, kTransposed, kEnd);
    };
    // Sizes depend on attributes, which cannot be asked for there.
    const auto infer = [](Ort::ShapeInferContext&, Ort::ShapeInferContext::Shape (&)[2]) {};
    constexpr bool kWantsMore = kEnd == End::prelu || kEnd == End::sum;
    const std::vector<Type> inputs(kWantsMore ? 4 : 3, Type::element);
    const std::size_t required = kWantsMore ? 4 : 2;
    return {name, inputs, {Type::element}, make, nullptr, infer, required, {Element::float32, Element::bfloat16}};
}

}  // namespace

const Signature kNhwcConvolution = nhwc_signature<false, End::none>("NhwcConvolution");
const Signature kNhwcConvolutionRelu = nhwc_signature<false, End::relu>("NhwcConvolutionRelu");
const Signature kNhwcConvolutionPRelu = nhwc_signature<false, End::prelu>("NhwcConvolutionPRelu");
const Signature kNhwcConvolutionSum = nhwc_signature<false, End::sum>("NhwcConvolutionSum");
const Signature kNhwcTransposedConvolution = nhwc_signature<true, End::none>("NhwcTransposedConvolution4x4");
const Signature kNhwcTransposedConvolutionRelu = nhwc_signature<true, End::relu>("NhwcTransposedConvolution4x4Relu");
const Signature kNhwcTransposedConvolutionPRelu = nhwc_signature<true, End::prelu>("NhwcTransposedConvolution4x4PRelu");
const Signature kNhwcTransposedConvolutionSum = nhwc_signature<true, End::sum>("NhwcTransposedConvolution4x4Sum");

}  // namespace gantk::onnxruntime

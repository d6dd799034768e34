// SPDX-License-Identifier: Apache-2.0
// NhwcDepthwiseConvolution <group, strides, pads> (features T[N, H, W, C], weights T[C, 1, h, w], bias T[C]?)
//     => (result T[N, H', W', C]), of which `group` is C
// NhwcDepthwiseConvolutionRelu: the same, and negative results become 0.
// NhwcDepthwiseConvolutionPRelu (..., bias, slopes T[C]): the same, and negative results are multiplied with slopes.
// T is float32 or bfloat16.
#include "../cpu/depthwise.hpp"
#include "kernel.hpp"

namespace gantk::onnxruntime {
namespace {

using cpu::nhwc::Depthwise;
using cpu::nhwc::DepthwiseLanes;

// What becomes of results.
enum class DepthwiseEnd { none, relu, prelu };

// Weights that no file stores are packed in every call.
template <typename T>
class NhwcDepthwiseConvolution : public Kernel {
  public:
    NhwcDepthwiseConvolution(const Making& making, DepthwiseEnd end)
        : end_(end),
          group_(int_attribute(making.info, "group", 1)),
          pads_(ints_attribute(making.info, "pads", 4)),
          strides_(strides_of(making.info)) {
        if (std::any_of(pads_.begin(), pads_.end(), [](std::int64_t pad) { return pad < 0; }))
            throw Error("`pads` are " + text_of(pads_) + "; none may be below 0");
        int constant = 0;
        const auto weights = Ort::ConstKernelInfo(making.info).GetTensorConstantInput(1, &constant);
        if (constant != 0) stored_ = packed(weights);
    }

    void compute(Ort::KernelContext& context) const override {
        const auto features = context.GetInput(0), weights = context.GetInput(1);
        const Depthwise shape = whole_shape(features, weights);
        const auto made = stored_.empty() ? packed(weights) : std::vector<DepthwiseLanes>();
        cpu::nhwc::DepthwiseTensors<T> tensors{data(features), (stored_.empty() ? made : stored_).data(), nullptr};
        tensors.bias = by_channel(context, 2, "the bias has", shape.channels);
        tensors.relu = end_ == DepthwiseEnd::relu;
        if (end_ == DepthwiseEnd::prelu) tensors.slopes = by_channel(context, 3, "slopes have", shape.channels);
        auto result = context.GetOutput(0, {shape.count, shape.result_height(), shape.result_width(), shape.channels});
        tensors.result = static_cast<T*>(result.GetTensorMutableRawData());
        depthwise_convolution(shape, tensors, threads_of(context));
    }

  private:
    static Shape strides_of(const OrtKernelInfo* info) {
        const Shape strides = ints_attribute(info, "strides", 2);
        if (strides == Shape{0, 0}) return {1, 1};
        if (std::min(strides[0], strides[1]) < 1)
            throw Error("`strides` are " + text_of(strides) + "; at least 1 is wanted");
        return strides;
    }

    static const T* data(const Ort::ConstValue& value) { return static_cast<const T*>(value.GetTensorRawData()); }

    // What weights tell, with nothing known of features.
    Depthwise kernel_of(const Ort::ConstValue& weights) const {
        const Shape shape = shape_of(weights, "weights", 4, false, "C x 1 x h x w");
        if (shape[1] != 1) throw Error("weights have shape " + text_of(shape) + "; C x 1 x h x w is wanted");
        if (shape[0] != group_)
            throw Error("`group` is " + std::to_string(group_) + "; " + std::to_string(shape[0]) +
                        " belongs to weights " + text_of(shape));
        return {1,           1,           1,        shape[0], shape[2], shape[3],
                strides_[0], strides_[1], pads_[0], pads_[1], pads_[2], pads_[3]};
    }

    std::vector<DepthwiseLanes> packed(const Ort::ConstValue& weights) const {
        return depthwise_weights(kernel_of(weights), data(weights));
    }

    Depthwise whole_shape(const Ort::ConstValue& features, const Ort::ConstValue& weights) const {
        Depthwise shape = kernel_of(weights);
        const Shape given = shape_of(features, "features", 4, false, "N x H x W x C");
        if (given[3] != shape.channels)
            throw Error("weights have shape " + text_of(weights.GetTensorTypeAndShapeInfo().GetShape()) + "; [" +
                        std::to_string(given[3]) + ", 1, h, w] belongs to features " + text_of(given));
        shape.count = given[0];
        shape.height = given[1];
        shape.width = given[2];
        if (shape.top + shape.height + shape.bottom < shape.kernel_height ||
            shape.left + shape.width + shape.right < shape.kernel_width)
            throw Error("features have shape " + text_of(given) + ", which is too small for kernels of " +
                        std::to_string(shape.kernel_height) + " x " + std::to_string(shape.kernel_width));
        return shape;
    }

    // A value for each channel, or null where the node has none.
    static const T* by_channel(Ort::KernelContext& context, std::size_t index, const char* who, std::int64_t channels) {
        if (context.GetInputCount() <= index) return nullptr;
        const auto value = context.GetInput(index);
        if (static_cast<const OrtValue*>(value) == nullptr) return nullptr;
        const Shape shape = value.GetTensorTypeAndShapeInfo().GetShape(), wanted{channels};
        if (shape != wanted)
            throw Error(std::string(who) + " shape " + text_of(shape) + "; " + text_of(wanted) + " is wanted");
        return data(value);
    }

    DepthwiseEnd end_;
    std::int64_t group_;
    Shape pads_;
    Shape strides_;
    std::vector<DepthwiseLanes> stored_;  // Empty where no file stores weights.
};

template <DepthwiseEnd kEnd>
Signature depthwise_signature(const char* name) {
    const auto make = [](const Making& making) -> std::unique_ptr<Kernel> {
        if (making.element == Element::float32) return std::make_unique<NhwcDepthwiseConvolution<float>>(making, kEnd);
        return std::make_unique<NhwcDepthwiseConvolution<cpu::nhwc::Bfloat>>(making, kEnd);
    };
    // Sizes depend on attributes, which cannot be asked for there.
    const auto infer = [](Ort::ShapeInferContext&, Ort::ShapeInferContext::Shape (&)[2]) {};
    constexpr std::size_t kInputs = kEnd == DepthwiseEnd::prelu ? 4 : 3;
    const std::vector<Type> inputs(kInputs, Type::element);
    const std::size_t required = kEnd == DepthwiseEnd::prelu ? kInputs : 2;
    return {name, inputs, {Type::element}, make, nullptr, infer, required, {Element::float32, Element::bfloat16}};
}

}  // namespace

const Signature kNhwcDepthwiseConvolution = depthwise_signature<DepthwiseEnd::none>("NhwcDepthwiseConvolution");
const Signature kNhwcDepthwiseConvolutionRelu = depthwise_signature<DepthwiseEnd::relu>("NhwcDepthwiseConvolutionRelu");
const Signature kNhwcDepthwiseConvolutionPRelu =
    depthwise_signature<DepthwiseEnd::prelu>("NhwcDepthwiseConvolutionPRelu");

}  // namespace gantk::onnxruntime

// SPDX-License-Identifier: Apache-2.0
// NhwcDepthwiseConvolution <group, strides, pads> (features T[N, H, W, C], weights T[C, 1, h, w], bias T[C]?)
//     => (result T[N, H', W', C]), of which `group` is C
// NhwcDepthwiseConvolutionRelu: the same, and negative results become 0.
// NhwcDepthwiseConvolutionPRelu (..., bias, slopes T[C]): the same, and negative results are multiplied with slopes.
// NhwcDepthwiseTransposed <group, strides, pads, output_padding> (features T[N, H, W, C], weights T[C, 1, h, w],
//     bias T[C]?) => (result T[N, H', W', C]); NhwcDepthwiseTransposedRelu, NhwcDepthwiseTransposedPRelu: as above
// T is float32 or bfloat16.
#include <optional>

#include "../cpu/depthwise.hpp"
#include "kernel.hpp"

namespace gantk::onnxruntime {
namespace {

using cpu::nhwc::Depthwise;
using cpu::nhwc::DepthwiseLanes;
using cpu::nhwc::DepthwiseTransposed;

// What becomes of results.
enum class DepthwiseEnd { none, relu, prelu };

// What both have.
template <typename T>
class NhwcDepthwise : public Kernel {
  public:
    NhwcDepthwise(const Making& making, DepthwiseEnd end)
        : end_(end),
          group_(int_attribute(making.info, "group", 1)),
          pads_(ints_attribute(making.info, "pads", 4)),
          strides_(strides_of(making.info)) {
        if (std::any_of(pads_.begin(), pads_.end(), [](std::int64_t pad) { return pad < 0; }))
            throw Error("`pads` are " + text_of(pads_) + "; none may be below 0");
    }

  protected:
    static const T* data(const Ort::ConstValue& value) { return static_cast<const T*>(value.GetTensorRawData()); }

    // The shape of weights that the group belongs to.
    Shape kernels_of(const Ort::ConstValue& weights) const {
        const Shape shape = shape_of(weights, "weights", 4, false, "C x 1 x h x w");
        if (shape[1] != 1) throw Error("weights have shape " + text_of(shape) + "; C x 1 x h x w is wanted");
        if (shape[0] != group_)
            throw Error("`group` is " + std::to_string(group_) + "; " + std::to_string(shape[0]) +
                        " belongs to weights " + text_of(shape));
        return shape;
    }

    // The shape of features that weights belong to.
    Shape features_of(const Ort::ConstValue& features, const Shape& weights) const {
        const Shape given = shape_of(features, "features", 4, false, "N x H x W x C");
        if (given[3] != weights[0])
            throw Error("weights have shape " + text_of(weights) + "; [" + std::to_string(given[3]) +
                        ", 1, h, w] belongs to features " + text_of(given));
        return given;
    }

    // What is done to sums, and where they go: to an output that is made with a height and a width.
    cpu::nhwc::DepthwiseTensors<T> tensors(Ort::KernelContext& context, const Shape& given, std::int64_t height,
                                           std::int64_t width) const {
        cpu::nhwc::DepthwiseTensors<T> made{data(context.GetInput(0)), nullptr, nullptr};
        made.bias = by_channel(context, 2, "the bias has", given[3]);
        made.relu = end_ == DepthwiseEnd::relu;
        if (end_ == DepthwiseEnd::prelu) made.slopes = by_channel(context, 3, "slopes have", given[3]);
        auto result = context.GetOutput(0, {given[0], height, width, given[3]});
        made.result = static_cast<T*>(result.GetTensorMutableRawData());
        return made;
    }

    const Shape& pads() const { return pads_; }
    const Shape& strides() const { return strides_; }

  private:
    static Shape strides_of(const OrtKernelInfo* info) {
        const Shape strides = ints_attribute(info, "strides", 2);
        if (strides == Shape{0, 0}) return {1, 1};
        if (std::min(strides[0], strides[1]) < 1)
            throw Error("`strides` are " + text_of(strides) + "; at least 1 is wanted");
        return strides;
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
    Shape pads_, strides_;
};

// The weights of a node, where the file stores them.
std::optional<Ort::ConstValue> stored_weights(const OrtKernelInfo* info) {
    int constant = 0;
    const auto weights = Ort::ConstKernelInfo(info).GetTensorConstantInput(1, &constant);
    if (constant == 0) return std::nullopt;
    return weights;
}

// Weights that no file stores are packed in every call.
template <typename T>
class NhwcDepthwiseConvolution : public NhwcDepthwise<T> {
  public:
    NhwcDepthwiseConvolution(const Making& making, DepthwiseEnd end) : NhwcDepthwise<T>(making, end) {
        if (const auto weights = stored_weights(making.info)) stored_ = packed(*weights);
    }

    void compute(Ort::KernelContext& context) const override {
        const auto weights = context.GetInput(1);
        Depthwise shape = kernel_of(weights);
        const Shape given = this->features_of(context.GetInput(0), this->kernels_of(weights));
        shape.count = given[0];
        shape.height = given[1];
        shape.width = given[2];
        if (shape.top + shape.height + shape.bottom < shape.kernel_height ||
            shape.left + shape.width + shape.right < shape.kernel_width)
            throw Error("features have shape " + text_of(given) + ", which is too small for kernels of " +
                        std::to_string(shape.kernel_height) + " x " + std::to_string(shape.kernel_width));
        const auto made = stored_.empty() ? packed(weights) : std::vector<DepthwiseLanes>();
        auto tensors = this->tensors(context, given, shape.result_height(), shape.result_width());
        tensors.packed = (stored_.empty() ? made : stored_).data();
        depthwise_convolution(shape, tensors, threads_of(context));
    }

  private:
    // What weights tell, with nothing known of features.
    Depthwise kernel_of(const Ort::ConstValue& weights) const {
        const Shape shape = this->kernels_of(weights), &strides = this->strides(), &pads = this->pads();
        return {1, 1, 1, shape[0], shape[2], shape[3], strides[0], strides[1], pads[0], pads[1], pads[2], pads[3]};
    }

    std::vector<DepthwiseLanes> packed(const Ort::ConstValue& weights) const {
        return depthwise_weights(kernel_of(weights), this->data(weights));
    }

    std::vector<DepthwiseLanes> stored_;  // Empty where no file stores weights.
};

template <typename T>
class NhwcDepthwiseTransposed : public NhwcDepthwise<T> {
  public:
    NhwcDepthwiseTransposed(const Making& making, DepthwiseEnd end)
        : NhwcDepthwise<T>(making, end), more_(ints_attribute(making.info, "output_padding", 2)) {
        for (std::size_t axis = 0; axis < 2; ++axis)
            if (more_[axis] < 0 || more_[axis] >= this->strides()[axis])
                throw Error("`output_padding` is " + text_of(more_) + "; from 0 on to below the strides is wanted");
        if (const auto weights = stored_weights(making.info)) stored_ = packed(*weights);
    }

    void compute(Ort::KernelContext& context) const override {
        const auto weights = context.GetInput(1);
        DepthwiseTransposed shape = kernel_of(weights);
        const Shape given = this->features_of(context.GetInput(0), this->kernels_of(weights)), &pads = this->pads();
        shape.count = given[0];
        shape.height = given[1];
        shape.width = given[2];
        shape.result_height = shape.down * (shape.height - 1) + shape.kernel_height + more_[0] - pads[0] - pads[2];
        shape.result_width = shape.across * (shape.width - 1) + shape.kernel_width + more_[1] - pads[1] - pads[3];
        if (std::min(shape.result_height, shape.result_width) < 1)
            throw Error("features have shape " + text_of(given) + "; `pads` " + text_of(pads) +
                        " leave nothing of what is made of them");
        const auto made = stored_.empty() ? packed(weights) : Phases();
        depthwise_transposed(shape, stored_.empty() ? made : stored_,
                             this->tensors(context, given, shape.result_height, shape.result_width),
                             threads_of(context));
    }

  private:
    using Phases = std::vector<std::vector<DepthwiseLanes>>;

    // What weights tell, with nothing known of features.
    DepthwiseTransposed kernel_of(const Ort::ConstValue& weights) const {
        const Shape shape = this->kernels_of(weights), &strides = this->strides(), &pads = this->pads();
        return {1, 1, 1, shape[0], shape[2], shape[3], strides[0], strides[1], pads[0], pads[1], 1, 1};
    }

    Phases packed(const Ort::ConstValue& weights) const {
        return depthwise_phases(kernel_of(weights), this->data(weights));
    }

    Shape more_;
    Phases stored_;  // Empty where no file stores weights.
};

template <template <typename> class Operator, DepthwiseEnd kEnd>
Signature depthwise_signature(const char* name) {
    const auto make = [](const Making& making) -> std::unique_ptr<Kernel> {
        if (making.element == Element::float32) return std::make_unique<Operator<float>>(making, kEnd);
        return std::make_unique<Operator<cpu::nhwc::Bfloat>>(making, kEnd);
    };
    // Sizes depend on attributes, which cannot be asked for there.
    const auto infer = [](Ort::ShapeInferContext&, Ort::ShapeInferContext::Shape (&)[2]) {};
    constexpr std::size_t kInputs = kEnd == DepthwiseEnd::prelu ? 4 : 3;
    const std::vector<Type> inputs(kInputs, Type::element);
    const std::size_t required = kEnd == DepthwiseEnd::prelu ? kInputs : 2;
    return {name, inputs, {Type::element}, make, nullptr, infer, required, {Element::float32, Element::bfloat16}};
}

}  // namespace

const Signature kNhwcDepthwiseConvolution =
    depthwise_signature<NhwcDepthwiseConvolution, DepthwiseEnd::none>("NhwcDepthwiseConvolution");
const Signature kNhwcDepthwiseConvolutionRelu =
    depthwise_signature<NhwcDepthwiseConvolution, DepthwiseEnd::relu>("NhwcDepthwiseConvolutionRelu");
const Signature kNhwcDepthwiseConvolutionPRelu =
    depthwise_signature<NhwcDepthwiseConvolution, DepthwiseEnd::prelu>("NhwcDepthwiseConvolutionPRelu");
const Signature kNhwcDepthwiseTransposed =
    depthwise_signature<NhwcDepthwiseTransposed, DepthwiseEnd::none>("NhwcDepthwiseTransposed");
const Signature kNhwcDepthwiseTransposedRelu =
    depthwise_signature<NhwcDepthwiseTransposed, DepthwiseEnd::relu>("NhwcDepthwiseTransposedRelu");
const Signature kNhwcDepthwiseTransposedPRelu =
    depthwise_signature<NhwcDepthwiseTransposed, DepthwiseEnd::prelu>("NhwcDepthwiseTransposedPRelu");

}  // namespace gantk::onnxruntime

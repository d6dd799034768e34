// SPDX-License-Identifier: Apache-2.0
// InstanceNorm, InstanceNormRelu <epsilon, from_blocksize, to_blocksize, mode, pads>
//     (features T[N, h, w, b * b * C], starts int64[2], ends int64[2], scale float32[C] or [N, C], offset: the same)
//     => (result T[N, h', w', t * t * C])
// InstanceNormSum <..., others_pads> (..., others T[N, H', W', C]) => (result)
// BorderedBlocks <to_blocksize, mode, pads> (features T[N, H, W, C]) => (result T[N, h', w', t * t * C])
// BiasRelu (features T[N, H, W, C], bias float32[C]) => (result T[N, H, W, C])
// Sizes <factor, growth> (sizes int64[2]) => (result int64[2])
#include "instance_norm.hpp"

#include <cmath>

#include "../cpu/instance_norm.hpp"
#include "buffers.hpp"

namespace gantk::onnxruntime {
namespace {

using kernels::Border;
using kernels::NormPictures;

Border border_of(const OrtKernelInfo* info) {
    const std::string mode = string_attribute(info, "mode", "constant");
    if (mode == "reflect") return Border::reflect;
    if (mode == "edge") return Border::edge;
    if (mode == "constant") return Border::constant;
    throw Error("the mode of the border is '" + mode + "'; allowed are reflect, edge, constant");
}

// Of eight amounts, as Pad has them for N x C x H x W, those of the sides: above, left, below, right.
std::array<std::int64_t, 4> sides_of(const OrtKernelInfo* info, const char* name) {
    const Shape amounts = ints_attribute(info, name, 8);
    if (amounts[0] != 0 || amounts[1] != 0 || amounts[4] != 0 || amounts[5] != 0)
        throw Error(std::string("`") + name + "` are " + text_of(amounts) +
                    "; only rows and columns may have a border");
    return {amounts[2], amounts[3], amounts[6], amounts[7]};
}

std::array<std::int64_t, 2> place_of(const Ort::ConstValue& value, const char* name) {
    const Shape shape = value.GetTensorTypeAndShapeInfo().GetShape();
    if (shape != Shape{2}) throw Error(std::string(name) + " have shape " + text_of(shape) + "; [2] is wanted");
    const auto* const numbers = value.GetTensorData<std::int64_t>();
    return {numbers[0], numbers[1]};
}

// What is told by the attributes that all operators of the family have.
NormPictures told(const Making& making) {
    NormPictures what;
    what.element = static_cast<kernels::Element>(making.element);
    what.to = int_attribute(making.info, "to_blocksize", 1);
    what.border = border_of(making.info);
    what.pads = sides_of(making.info, "pads");
    return what;
}

// A call's features and how they lie; operators add what else they are given.
struct Call {
    Ort::ConstValue features;
    NormPictures what;
    kernels::NormData data;

    Call(Ort::KernelContext& context, const NormPictures& told, const NormDevice& device)
        : features(context.GetInput(0)), what(told) {
        const Shape shape = shape_of(features, "features", 4, false, "N x H x W x C");
        std::copy(shape.begin(), shape.end(), what.shape.begin());
        data.features = features.GetTensorRawData();
        what.alignment = device.alignment(data.features);
    }
};

// Makes the result.
void make(Ort::KernelContext& context, const NormDevice& device, Call call) {
    auto& [features, what, data] = call;
    kernels::InstanceNormPlan plan = kernels::plan_instance_norm(what, device.device());
    auto result = context.GetOutput(0, {plan.result_shape.begin(), plan.result_shape.end()});
    data.result = result.GetTensorMutableRawData();
    if (device.alignment(data.result) < what.alignment) {
        what.alignment = device.alignment(data.result);
        plan = kernels::plan_instance_norm(what, device.device());
    }
    device.run(context, features, static_cast<Element>(what.element), plan, data);
}

class BorderedBlocks : public Kernel {
  public:
    BorderedBlocks(const Making& making, const NormDevice& device) : device_(device), what_(told(making)) {
        what_.normalizes = false;
    }

    void compute(Ort::KernelContext& context) const override { make(context, device_, {context, what_, device_}); }

  private:
    const NormDevice& device_;
    NormPictures what_;
};

class BiasRelu : public Kernel {
  public:
    BiasRelu(const Making& making, const NormDevice& device) : device_(device) {
        what_.element = static_cast<kernels::Element>(making.element);
        what_.normalizes = false;
        what_.rectifies = true;
    }

    void compute(Ort::KernelContext& context) const override {
        Call call(context, what_, device_);
        const auto bias = context.GetInput(1);
        const Shape given = bias.GetTensorTypeAndShapeInfo().GetShape(), wanted{call.what.shape[3]};
        if (given != wanted)
            throw Error("the bias has shape " + text_of(given) + "; " + text_of(wanted) + " is wanted");
        call.data.offset = bias.GetTensorData<float>();
        make(context, device_, call);
    }

  private:
    const NormDevice& device_;
    NormPictures what_;
};

class InstanceNorm : public Kernel {
  public:
    InstanceNorm(const Making& making, const NormDevice& device, bool rectifies, bool adds)
        : device_(device), what_(told(making)), adds_(adds) {
        what_.rectifies = rectifies;
        what_.epsilon = float_attribute(making.info, "epsilon", 1e-5f);
        if (!(std::isfinite(what_.epsilon) && what_.epsilon >= 0))
            throw Error("epsilon is " + std::to_string(what_.epsilon) + "; a number of at least 0 is wanted");
        what_.from = int_attribute(making.info, "from_blocksize", 1);
        if (what_.from < 1 || what_.from > 16)  // Its square is divided by.
            throw Error("from_blocksize is " + std::to_string(what_.from) + "; 1 to 16 is wanted");
        if (adds) {
            const auto sides = sides_of(making.info, "others_pads");
            what_.others_starts = {-sides[0], -sides[1]};
        }
    }

    void compute(Ort::KernelContext& context) const override {
        Call call(context, what_, device_);
        auto& [features, what, data] = call;
        what.starts = place_of(context.GetInput(1), "starts");
        what.ends = place_of(context.GetInput(2), "ends");
        if (adds_) {
            const auto others = context.GetInput(5);
            const Shape added = shape_of(others, "others", 4, false, "N x H x W x C");
            std::copy(added.begin(), added.end(), what.others.begin());
            data.others = others.GetTensorRawData();
            what.alignment = std::min(what.alignment, device_.alignment(data.others));
        }
        const std::int64_t pictures = what.shape[0], channels = what.shape[3] / (what.from * what.from);
        what.scale_of_each = parameters(context.GetInput(3), "the scale", pictures, channels, data.scale);
        if (parameters(context.GetInput(4), "the offset", pictures, channels, data.offset) != what.scale_of_each)
            throw Error("scale and offset have different shapes");
        make(context, device_, call);
    }

  private:
    // Whether each picture has its own.
    static bool parameters(const Ort::ConstValue& value, const char* name, std::int64_t pictures, std::int64_t channels,
                           const float*& data) {
        const Shape shape = value.GetTensorTypeAndShapeInfo().GetShape();
        data = value.GetTensorData<float>();
        if (shape == Shape{channels}) return false;
        if (shape == Shape{pictures, channels}) return true;
        throw Error(std::string(name) + " has shape " + text_of(shape) + "; " + text_of({channels}) + " or " +
                    text_of({pictures, channels}) + " is wanted");
    }

    const NormDevice& device_;
    NormPictures what_;
    bool adds_;
};

// A plan asks for a GPU; on a CPU what it says of blocks and threads is passed by.
void run_on_cpu(Ort::KernelContext& context, const Ort::ConstValue&, Element element,
                const kernels::InstanceNormPlan& plan, const kernels::NormData& data) {
    static const std::shared_ptr<Buffers> buffers = Buffers::shared();
    cpu::instance_norm(plan, data, element, buffers->memory(), threads_of(context));
}

constexpr NormDevice kNormCpu{[] { return kernels::Device{0, 0, 1, 0}; }, [](const void*) { return 16; }, run_on_cpu};

// On the CPU also in sessions for GPUs: what ONNX Runtime computes of sizes on a GPU it waits for.
class Sizes : public Kernel {
  public:
    explicit Sizes(const Making& making)
        : factor_(int_attribute(making.info, "factor", 1)), growth_(ints_attribute(making.info, "growth", 2)) {}

    void compute(Ort::KernelContext& context) const override {
        const auto sizes = context.GetInput(0);
        const Shape shape = sizes.GetTensorTypeAndShapeInfo().GetShape();
        if (shape != Shape{2}) throw Error("sizes have shape " + text_of(shape) + "; [2] is wanted");
        auto result = context.GetOutput(0, Shape{2});
        for (int axis = 0; axis < 2; ++axis)
            result.GetTensorMutableData<std::int64_t>()[axis] =
                sizes.GetTensorData<std::int64_t>()[axis] * factor_ + growth_[axis];
    }

  private:
    std::int64_t factor_;
    Shape growth_;
};

template <typename Operator, auto... kOptions>
std::unique_ptr<Kernel> on_cpu(const Making& making) {
    return std::make_unique<Operator>(making, kNormCpu, kOptions...);
}

#ifdef GANTK_HAS_CUDA
template <typename Operator, auto... kOptions>
std::unique_ptr<Kernel> on_cuda(const Making& making) {
    return std::make_unique<Operator>(making, kNormCuda, kOptions...);
}
#else
template <typename Operator, auto... kOptions>
constexpr Make on_cuda = nullptr;
#endif

template <typename Operator, auto... kOptions>
Signature norm_signature(const char* name, std::vector<Type> inputs) {
    // Sizes are known when starts and ends are, which is at run time.
    const auto infer = [](Ort::ShapeInferContext&, Ort::ShapeInferContext::Shape (&)[2]) {};
    return {name,  std::move(inputs), {Type::element}, on_cpu<Operator, kOptions...>, on_cuda<Operator, kOptions...>,
            infer};
}

const std::vector<Type> kInputs{Type::element, Type::sizes, Type::sizes, Type::float32, Type::float32};
const std::vector<Type> kWithOthers{Type::element, Type::sizes,   Type::sizes,
                                    Type::float32, Type::float32, Type::element};

}  // namespace

const Signature kInstanceNorm = norm_signature<InstanceNorm, false, false>("InstanceNorm", kInputs);
const Signature kInstanceNormRelu = norm_signature<InstanceNorm, true, false>("InstanceNormRelu", kInputs);
const Signature kInstanceNormSum = norm_signature<InstanceNorm, false, true>("InstanceNormSum", kWithOthers);
const Signature kBorderedBlocks = norm_signature<BorderedBlocks>("BorderedBlocks", {Type::element});
const Signature kBiasRelu{"BiasRelu",
                          {Type::element, Type::float32},
                          {Type::element},
                          on_cpu<BiasRelu>,
                          on_cuda<BiasRelu>,
                          [](Ort::ShapeInferContext& context, Ort::ShapeInferContext::Shape (&shapes)[2]) {
                              shapes[0] = context.GetInputShape(0);
                          }};
const Signature kSizes{"Sizes",
                       {Type::sizes},
                       {Type::sizes},
                       [](const Making& making) -> std::unique_ptr<Kernel> { return std::make_unique<Sizes>(making); },
                       nullptr,
                       [](Ort::ShapeInferContext& context, Ort::ShapeInferContext::Shape (&shapes)[2]) {
                           shapes[0] = context.GetInputShape(0);
                       }};

}  // namespace gantk::onnxruntime

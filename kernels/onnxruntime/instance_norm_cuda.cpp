// SPDX-License-Identifier: Apache-2.0
#include "instance_norm.hpp"

#include <cmath>

#include <gantk/kernels/instance_norm_plan.hpp>

#include "cuda.hpp"

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

    Call(Ort::KernelContext& context, const NormPictures& told) : features(context.GetInput(0)), what(told) {
        const Shape shape = shape_of(features, "features", 4, false, "N x H x W x C");
        std::copy(shape.begin(), shape.end(), what.shape.begin());
        data.features = features.GetTensorRawData();
        what.alignment = driver::alignment_of(data.features);
    }
};

// Launches what makes the result.
void make(Ort::KernelContext& context, Call call) {
    auto& [features, what, data] = call;
    kernels::InstanceNormPlan plan = kernels::plan_instance_norm(what, driver::current_device());
    auto result = context.GetOutput(0, {plan.result_shape.begin(), plan.result_shape.end()});
    data.result = result.GetTensorMutableRawData();
    if (driver::alignment_of(data.result) < what.alignment) {
        what.alignment = driver::alignment_of(data.result);
        plan = kernels::plan_instance_norm(what, driver::current_device());
    }
    const CudaWorkspace workspace(context, features, plan.workspace_bytes);
    launch(context, plan.launches(data, workspace.data()));
}

class BorderedBlocksCuda : public Kernel {
  public:
    explicit BorderedBlocksCuda(const Making& making) : what_(told(making)) { what_.normalizes = false; }

    void compute(Ort::KernelContext& context) const override { make(context, {context, what_}); }

  private:
    NormPictures what_;
};

class BiasReluCuda : public Kernel {
  public:
    explicit BiasReluCuda(const Making& making) {
        what_.element = static_cast<kernels::Element>(making.element);
        what_.normalizes = false;
        what_.rectifies = true;
    }

    void compute(Ort::KernelContext& context) const override {
        Call call(context, what_);
        const auto bias = context.GetInput(1);
        const Shape given = bias.GetTensorTypeAndShapeInfo().GetShape(), wanted{call.what.shape[3]};
        if (given != wanted)
            throw Error("the bias has shape " + text_of(given) + "; " + text_of(wanted) + " is wanted");
        call.data.offset = bias.GetTensorData<float>();
        make(context, call);
    }

  private:
    NormPictures what_;
};

class InstanceNormCuda : public Kernel {
  public:
    InstanceNormCuda(const Making& making, bool rectifies, bool adds) : what_(told(making)), adds_(adds) {
        what_.rectifies = rectifies;
        what_.epsilon = float_attribute(making.info, "epsilon", 1e-5f);
        if (!(std::isfinite(what_.epsilon) && what_.epsilon >= 0))
            throw Error("epsilon is " + std::to_string(what_.epsilon) + "; a number of at least 0 is wanted");
        what_.from = int_attribute(making.info, "from_blocksize", 1);
        if (what_.from < 1) throw Error("from_blocksize is " + std::to_string(what_.from) + "; at least 1 is wanted");
        if (adds) {
            const auto sides = sides_of(making.info, "others_pads");
            what_.others_starts = {-sides[0], -sides[1]};
        }
    }

    void compute(Ort::KernelContext& context) const override {
        Call call(context, what_);
        auto& [features, what, data] = call;
        what.starts = place_of(context.GetInput(1), "starts");
        what.ends = place_of(context.GetInput(2), "ends");
        if (adds_) {
            const auto others = context.GetInput(5);
            const Shape added = shape_of(others, "others", 4, false, "N x H x W x C");
            std::copy(added.begin(), added.end(), what.others.begin());
            data.others = others.GetTensorRawData();
            what.alignment = std::min(what.alignment, driver::alignment_of(data.others));
        }
        const std::int64_t pictures = what.shape[0], channels = what.shape[3] / (what.from * what.from);
        what.scale_of_each = parameters(context.GetInput(3), "the scale", pictures, channels, data.scale);
        if (parameters(context.GetInput(4), "the offset", pictures, channels, data.offset) != what.scale_of_each)
            throw Error("scale and offset have different shapes");
        make(context, call);
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

    NormPictures what_;
    bool adds_;
};

}  // namespace

std::unique_ptr<Kernel> make_bordered_blocks_cuda(const Making& making) {
    return std::make_unique<BorderedBlocksCuda>(making);
}

std::unique_ptr<Kernel> make_bias_relu_cuda(const Making& making) { return std::make_unique<BiasReluCuda>(making); }

std::unique_ptr<Kernel> make_instance_norm_cuda(const Making& making) {
    return std::make_unique<InstanceNormCuda>(making, false, false);
}

std::unique_ptr<Kernel> make_instance_norm_relu_cuda(const Making& making) {
    return std::make_unique<InstanceNormCuda>(making, true, false);
}

std::unique_ptr<Kernel> make_instance_norm_sum_cuda(const Making& making) {
    return std::make_unique<InstanceNormCuda>(making, false, true);
}

}  // namespace gantk::onnxruntime

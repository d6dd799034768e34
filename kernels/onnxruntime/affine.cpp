// SPDX-License-Identifier: Apache-2.0
// NhwcAffine (features T[N, H, W, C], factors float32[M, C], offsets float32[L, C]) => (result T[N, H, W, C])
// NhwcAffineSum (..., others T[P, H, W, Q]): the same, and others are added.
// NhwcAffinePRelu (..., slopes float32[C]): the same, and negative results are multiplied with slopes.
// NhwcAffineSumPRelu (..., others, slopes): the same, others are added, and then negative ones multiplied.
// NhwcAffineSilu, NhwcAffineSumSilu: as without it, and results y become y * sigmoid(y).
// L, M and P are 1 or N, Q is 1 or C.
#include "../cpu/affine.hpp"
#include "kernel.hpp"

namespace gantk::onnxruntime {
namespace {

// What becomes of results.
enum class AffineEnd { none, prelu, silu };

class NhwcAffine : public Kernel {
  public:
    NhwcAffine(const Making& making, bool adds, AffineEnd end) : element_(making.element), adds_(adds), end_(end) {}

    void compute(Ort::KernelContext& context) const override {
        const auto features = context.GetInput(0), factors = context.GetInput(1), offsets = context.GetInput(2);
        const Shape shape = shape_of(features, "features", 4, false, "N x H x W x C");
        cpu::Affine what{element_, shape[0], shape[1] * shape[2], shape[3]};
        what.own_factors = each_has_own(factors, "factors", shape);
        what.own_offsets = each_has_own(offsets, "offsets", shape);
        cpu::AffineTensors tensors{features.GetTensorRawData(), nullptr, factors.GetTensorData<float>(),
                                   offsets.GetTensorData<float>()};
        if (adds_) {
            const auto others = context.GetInput(3);
            add(others, shape, what);
            tensors.others = others.GetTensorRawData();
        }
        what.silu = end_ == AffineEnd::silu;
        if (end_ == AffineEnd::prelu) {
            const auto slopes = context.GetInput(adds_ ? 4 : 3);
            expect(sizes_of(slopes) == Shape{shape[3]}, slopes, "slopes", text_of({shape[3]}) + " is wanted");
            tensors.slopes = slopes.GetTensorData<float>();
        }
        auto result = context.GetOutput(0, shape);
        tensors.result = result.GetTensorMutableRawData();
        cpu::affine(what, tensors, threads_of(context));
    }

  private:
    static Shape sizes_of(const Ort::ConstValue& value) { return value.GetTensorTypeAndShapeInfo().GetShape(); }

    static void expect(bool holds, const Ort::ConstValue& value, const char* name, const std::string& wanted) {
        if (!holds) throw Error(std::string(name) + " have shape " + text_of(sizes_of(value)) + "; " + wanted);
    }

    // Whether each picture has factors or offsets of its own.
    static bool each_has_own(const Ort::ConstValue& value, const char* name, const Shape& features) {
        const Shape given = sizes_of(value), shared{1, features[3]}, own{features[0], features[3]};
        expect(given == shared || given == own, value, name,
               (own == shared ? "" : text_of(shared) + " or ") + text_of(own) + " is wanted");
        return given == own;
    }

    static void add(const Ort::ConstValue& others, const Shape& features, cpu::Affine& what) {
        const Shape given = sizes_of(others);
        Shape fitting = features;
        for (const std::size_t axis : {0, 3})
            if (given.size() == 4 && given[axis] == 1) fitting[axis] = 1;
        expect(given == fitting, others, "others",
               text_of(features) + " is wanted, whose first and last size may be 1 instead");
        what.own_others = given[0] == features[0];
        what.pixelwise = given[3] != features[3];
    }

    Element element_;
    bool adds_;
    AffineEnd end_;
};

template <bool kAdds, AffineEnd kEnd>
Signature affine_signature(const char* name) {
    std::vector<Type> inputs{Type::element, Type::float32, Type::float32};
    if (kAdds) inputs.push_back(Type::element);
    if (kEnd == AffineEnd::prelu) inputs.push_back(Type::float32);
    const auto make = [](const Making& making) -> std::unique_ptr<Kernel> {
        return std::make_unique<NhwcAffine>(making, kAdds, kEnd);
    };
    const auto infer = [](Ort::ShapeInferContext& context, Ort::ShapeInferContext::Shape (&shapes)[2]) {
        shapes[0] = context.GetInputShape(0);
    };
    return in_place({name, inputs, {Type::element}, make, nullptr, infer});
}

}  // namespace

const Signature kNhwcAffine = affine_signature<false, AffineEnd::none>("NhwcAffine");
const Signature kNhwcAffineSum = affine_signature<true, AffineEnd::none>("NhwcAffineSum");
const Signature kNhwcAffinePRelu = affine_signature<false, AffineEnd::prelu>("NhwcAffinePRelu");
const Signature kNhwcAffineSumPRelu = affine_signature<true, AffineEnd::prelu>("NhwcAffineSumPRelu");
const Signature kNhwcAffineSilu = affine_signature<false, AffineEnd::silu>("NhwcAffineSilu");
const Signature kNhwcAffineSumSilu = affine_signature<true, AffineEnd::silu>("NhwcAffineSumSilu");

}  // namespace gantk::onnxruntime

// SPDX-License-Identifier: Apache-2.0
// NhwcGroupNorm <groups, epsilon> (features T[N, H, W, C], scale float32[C], offset float32[C])
//     => (result T[N, H, W, C]), of which C is a multiple of `groups`
// NhwcGroupNormSilu: the same, and results y become y * sigmoid(y).
#include "../cpu/group_norm.hpp"

#include <cmath>

#include "kernel.hpp"

namespace gantk::onnxruntime {
namespace {

class NhwcGroupNorm : public Kernel {
  public:
    NhwcGroupNorm(const Making& making, bool silu)
        : element_(making.element),
          silu_(silu),
          groups_(int_attribute(making.info, "groups", 0)),
          epsilon_(float_attribute(making.info, "epsilon", 1e-5f)) {
        if (groups_ < 1) throw Error("groups is " + std::to_string(groups_) + "; at least 1 is wanted");
        if (!(std::isfinite(epsilon_) && epsilon_ >= 0))
            throw Error("epsilon is " + std::to_string(epsilon_) + "; a number of at least 0 is wanted");
    }

    void compute(Ort::KernelContext& context) const override {
        const auto features = context.GetInput(0);
        const Shape shape = shape_of(features, "features", 4, false, "N x H x W x C");
        if (shape[3] % groups_ != 0)
            throw Error("features have shape " + text_of(shape) + "; a multiple of " + std::to_string(groups_) +
                        " channels, the groups, is wanted, not " + std::to_string(shape[3]));
        const float *const scale = of_channels(context.GetInput(1), "scale", shape[3]),
                           *const offset = of_channels(context.GetInput(2), "offset", shape[3]);
        auto result = context.GetOutput(0, shape);
        cpu::group_norm({element_, shape[0], shape[1] * shape[2], shape[3], groups_, epsilon_, silu_},
                        {features.GetTensorRawData(), result.GetTensorMutableRawData(), scale, offset},
                        threads_of(context));
    }

  private:
    static const float* of_channels(const Ort::ConstValue& value, const char* name, std::int64_t channels) {
        const Shape given = value.GetTensorTypeAndShapeInfo().GetShape(), wanted{channels};
        if (given != wanted)
            throw Error(std::string("the ") + name + " has shape " + text_of(given) + "; " + text_of(wanted) +
                        " is wanted");
        return value.GetTensorData<float>();
    }

    Element element_;
    bool silu_;
    std::int64_t groups_;
    float epsilon_;
};

template <bool kSilu>
Signature group_norm_signature(const char* name) {
    const auto make = [](const Making& making) -> std::unique_ptr<Kernel> {
        return std::make_unique<NhwcGroupNorm>(making, kSilu);
    };
    const auto infer = [](Ort::ShapeInferContext& context, Ort::ShapeInferContext::Shape (&shapes)[2]) {
        shapes[0] = context.GetInputShape(0);
    };
    return in_place({name, {Type::element, Type::float32, Type::float32}, {Type::element}, make, nullptr, infer});
}

}  // namespace

const Signature kNhwcGroupNorm = group_norm_signature<false>("NhwcGroupNorm");
const Signature kNhwcGroupNormSilu = group_norm_signature<true>("NhwcGroupNormSilu");

}  // namespace gantk::onnxruntime

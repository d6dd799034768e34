// SPDX-License-Identifier: Apache-2.0
// NhwcGate (features T[N, H, W, 2C]) => (result T[N, H, W, C])
// NhwcGlu: the same, of the second half's sigmoid.
#include "../cpu/gate.hpp"
#include "kernel.hpp"

namespace gantk::onnxruntime {
namespace {

class NhwcGate : public Kernel {
  public:
    NhwcGate(const Making& making, bool sigmoid) : element_(making.element), sigmoid_(sigmoid) {}

    void compute(Ort::KernelContext& context) const override {
        const auto features = context.GetInput(0);
        const Shape shape = shape_of(features, "features", 4, false, "N x H x W x 2C");
        if (shape[3] % 2 != 0)
            throw Error("features " + text_of(shape) + " have " + std::to_string(shape[3]) +
                        " channels; an even number is wanted, for halves");
        auto result = context.GetOutput(0, {shape[0], shape[1], shape[2], shape[3] / 2});
        cpu::gate({element_, shape[0] * shape[1] * shape[2], shape[3] / 2, sigmoid_},
                  features.GetTensorRawData(), result.GetTensorMutableRawData(), threads_of(context));
    }

  private:
    Element element_;
    bool sigmoid_;
};

template <bool kSigmoid>
Signature gate_signature(const char* name) {
    const auto make = [](const Making& making) -> std::unique_ptr<Kernel> {
        return std::make_unique<NhwcGate>(making, kSigmoid);
    };
    const auto infer = [](Ort::ShapeInferContext& context, Ort::ShapeInferContext::Shape (&shapes)[2]) {
        const auto& features = context.GetInputShape(0);
        if (features.size() != 4 || !features[3].IsInt() || features[3].AsInt() % 2 != 0) return;
        shapes[0] = {features[0], features[1], features[2], features[3].AsInt() / 2};
    };
    return {name, {Type::element}, {Type::element}, make, nullptr, infer};
}

}  // namespace

const Signature kNhwcGate = gate_signature<false>("NhwcGate");
const Signature kNhwcGlu = gate_signature<true>("NhwcGlu");

}  // namespace gantk::onnxruntime

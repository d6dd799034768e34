// SPDX-License-Identifier: Apache-2.0
// What one pixel adds to the total variation, and its derivatives by the differences dx and dy.
#pragma once

#include <gantk/kernels/variation_parameters.h>

namespace gantk::kernels {

struct Term {
    float value;
    float slope_x;
    float slope_y;
};

// |dx| + |dy|; the slope of |0|, and of NaN, is 0 as in PyTorch.
struct L1 {
    __device__ explicit L1(const VariationParameters&) {}
    __device__ Term term(float dx, float dy) const { return {fabsf(dx) + fabsf(dy), sign(dx), sign(dy)}; }

private:
    static __device__ float sign(float d) { return fabsf(d) > 0.f ? copysignf(1.f, d) : 0.f; }
};

// dx^2 + dy^2
struct L2 {
    __device__ explicit L2(const VariationParameters&) {}
    __device__ Term term(float dx, float dy) const { return {dx * dx + dy * dy, 2.f * dx, 2.f * dy}; }
};

// sqrt(dx^2 + dy^2 + eps). One approximate reciprocal root (within 2^-22.9) serves value and slopes: exact roots
// and divisions would take longer than the memory. The plan keeps eps a normal number, so that flushing is harmless.
struct Isotropic {
    float eps;

    __device__ explicit Isotropic(const VariationParameters& p) : eps(p.eps) {}
    __device__ Term term(float dx, float dy) const {
        const float square = fmaf(dx, dx, fmaf(dy, dy, eps));
        float inverse;
        asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(square));
        // Of an infinite square the inverse is 0; the maximum keeps its root infinite, and changes no other.
        return {square * fmaxf(inverse, 1e-20f), dx * inverse, dy * inverse};
    }
};

// The kind as a parameter: for the kernels that wait for memory anyway, so that there are fewer to compile.
struct AnyKind {
    const VariationParameters& p;

    __device__ explicit AnyKind(const VariationParameters& parameters) : p(parameters) {}
    __device__ Term term(float dx, float dy) const {
        if (p.kind == kVariationL1) return L1(p).term(dx, dy);
        if (p.kind == kVariationL2) return L2(p).term(dx, dy);
        return Isotropic(p).term(dx, dy);
    }
};

}  // namespace gantk::kernels

// SPDX-License-Identifier: Apache-2.0
// The exponential of vectors, and what is made of it. The file that includes this defines GANTK_TARGET and has the
// vectors of nhwc_vectors.inl.

// e^x = 2^n e^r, where n is whole and |r| at most half of log 2: within 3e-7 of itself, infinity from 88.8 on, and
// below -86 as much as there, 4e-38. Of NaN it is anything.
GANTK_TARGET inline void exponential(const Floats& given, Floats& made) {
    constexpr float kLeast = -86, kMost = 89;
    constexpr float kWhole = 0x1.8p23f;  // What is added to it loses its fraction, and is in the low bits.
    const Floats above = given < kLeast ? Floats{} + kLeast : given, x = above > kMost ? Floats{} + kMost : above;
    const Floats moved = x * 1.44269504f + kWhole, n = moved - kWhole;
    // log 2 in two parts, of which whole multiples of the first are exact.
    const Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
    // Half of it, so that 2^128 times that is finite: minimax of relative errors, 1.1e-7.
    const Floats half =
        0.5f + r * (0.5f + r * (0.249996156f + r * (0.083335578f + r * (0.0209451653f + r * 0.00415625051f))));
    made = reinterpret_cast<Floats>(reinterpret_cast<Words>(half) + (reinterpret_cast<Words>(moved) << 23)) * 2.0f;
}

// x * sigmoid(x), within 4e-7 of itself: NaN of NaN and of -infinity, and -0 below -88.8.
GANTK_TARGET inline void silu(Floats& values) {
    Floats power;
    exponential(-values, power);
    values /= 1.0f + power;
}

// values * sigmoid(given), within 5e-7 of itself and NaN where either is; below -88.8 the sigmoid counts as 0.
GANTK_TARGET inline void multiply_with_sigmoid(const Floats& given, Floats& values) {
    Floats power;
    exponential(-given, power);
    values = given == given ? values / (1.0f + power) : given;
}

// SPDX-License-Identifier: Apache-2.0
// 16 bfloat16 as floats, and back: rounded by one instruction, which takes what is below the least normal number for 0.
// The file that includes this defines GANTK_TARGET, for AVX512-BF16, and has the vectors of nhwc_vectors.inl.

// GCC 12 makes five instructions of __builtin_convertvector, and warns of what is not masked.
GANTK_TARGET inline void load(const Bfloat* from, Floats& values) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    values = reinterpret_cast<Floats>(reinterpret_cast<Words>(_mm512_maskz_cvtepu16_epi32(0xffff, halves)) << 16);
}
GANTK_TARGET inline void store(const Floats& values, Bfloat* to) {
    *reinterpret_cast<StoredHalves*>(to) =
        reinterpret_cast<Halves>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(values)));
}

// SPDX-License-Identifier: Apache-2.0
#include "element.hpp"

#include <cstring>

#include "clones.hpp"

namespace gantk::cpu {
namespace {

inline float as_float(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline std::uint32_t as_bits(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// The exponent and mantissa of a half, read as those of a float, are too small by 2^112, subnormals included.
inline float widen_half(std::uint16_t half) {
    const std::uint32_t magnitude = (half & 0x7fffu) << 13, sign = (half & 0x8000u) << 16;
    const std::uint32_t finite = as_bits(as_float(magnitude) * 0x1p112f);
    const std::uint32_t special = magnitude | 0x7f800000u;
    return as_float(sign | (magnitude < 0x0f800000u ? finite : special));
}

// Adding 0.5 to a number below 2^-14 leaves in the low bits of its mantissa what a subnormal half has,
// rounded.
inline std::uint16_t narrow_half(float value) {
    const std::uint32_t bits = as_bits(value), magnitude = bits & 0x7fffffffu;
    const std::uint32_t subnormal = as_bits(as_float(magnitude) + 0.5f) - 0x3f000000u;
    const std::uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    const std::uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    std::uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
    half = magnitude >= 0x47800000u ? special : half;
    return static_cast<std::uint16_t>(half | (bits >> 16 & 0x8000u));
}

inline std::uint16_t narrow_bfloat(float value) {
    const std::uint32_t bits = as_bits(value);
    const std::uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16, quiet = bits >> 16 | 0x40u;
    return static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

GANTK_CLONES void widen_halves(const std::uint16_t* from, std::int64_t count, float* to) {
    for (std::int64_t i = 0; i < count; ++i) to[i] = widen_half(from[i]);
}

GANTK_CLONES void widen_bfloats(const std::uint16_t* from, std::int64_t count, float* to) {
    for (std::int64_t i = 0; i < count; ++i) to[i] = as_float(std::uint32_t{from[i]} << 16);
}

GANTK_CLONES void narrow_halves(const float* from, std::int64_t count, std::uint16_t* to) {
    for (std::int64_t i = 0; i < count; ++i) to[i] = narrow_half(from[i]);
}

GANTK_CLONES void narrow_bfloats(const float* from, std::int64_t count, std::uint16_t* to) {
    for (std::int64_t i = 0; i < count; ++i) to[i] = narrow_bfloat(from[i]);
}

}  // namespace

void widen(Element element, const void* from, std::int64_t first, std::int64_t count, float* to) {
    switch (element) {
        case Element::float32:
            std::memcpy(to, static_cast<const float*>(from) + first,
                        static_cast<std::size_t>(count) * sizeof(float));
            return;
        case Element::float16:
            return widen_halves(static_cast<const std::uint16_t*>(from) + first, count, to);
        case Element::bfloat16:
            return widen_bfloats(static_cast<const std::uint16_t*>(from) + first, count, to);
    }
}

void narrow(Element element, const float* from, std::int64_t count, void* to, std::int64_t first) {
    switch (element) {
        case Element::float32:
            std::memcpy(static_cast<float*>(to) + first, from,
                        static_cast<std::size_t>(count) * sizeof(float));
            return;
        case Element::float16:
            return narrow_halves(from, count, static_cast<std::uint16_t*>(to) + first);
        case Element::bfloat16:
            return narrow_bfloats(from, count, static_cast<std::uint16_t*>(to) + first);
    }
}

}  // namespace gantk::cpu

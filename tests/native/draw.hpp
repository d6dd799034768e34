// SPDX-License-Identifier: Apache-2.0
// Numbers for kernels under test, the same in every run.
#pragma once

#include <cstdint>
#include <vector>

// Spread evenly, with mean 0 and the variance of `scale` squared. Those of <random> take a sanitized program much of
// its time.
inline std::vector<float> draw(std::int64_t count, double scale = 1) {
    static std::uint64_t state = 0;
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) {
        state = state * 6364136223846793005u + 1442695040888963407u;  // Knuth's MMIX.
        value = static_cast<float>((double(state >> 11) * 0x1p-52 - 1) * 1.7320508 * scale);
    }
    return values;
}

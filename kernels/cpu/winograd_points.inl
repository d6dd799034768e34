// SPDX-License-Identifier: Apache-2.0
// Values of polynomials at the points of Winograd's filters, and back: see winograd_parts.hpp. For what the file that
// includes this calls a Vector: a template would forget how that is aligned.

constexpr float kRoot = 1.41421356f, kInverse = 0.707106781f;

// B^T d.
GANTK_INLINE void to_frequencies(const Vector (&d)[6], Vector (&made)[6]) {
    const Vector even = d[4] - 0.5f * d[2], odd = d[3] - 0.5f * d[1];
    const Vector even_inverse = 2 * d[2] - d[4], odd_inverse = 2 * d[1] - d[3];
    made[0] = d[0] + (d[4] - 2.5f * d[2]);
    made[1] = even + kRoot * odd;
    made[2] = even - kRoot * odd;
    made[3] = even_inverse + kInverse * odd_inverse;
    made[4] = even_inverse - kInverse * odd_inverse;
    made[5] = d[1] + (d[5] - 2.5f * d[3]);
}

// A^T m.
GANTK_INLINE void to_results(const Vector (&m)[6], Vector (&made)[4]) {
    const Vector sum = m[1] + m[2], difference = m[1] - m[2], sum_inverse = m[3] + m[4],
                 difference_inverse = m[3] - m[4];
    made[0] = m[0] + kInverse * sum + kRoot * sum_inverse;
    made[1] = difference + difference_inverse;
    made[2] = kRoot * sum + kInverse * sum_inverse;
    made[3] = 2 * difference + 0.5f * difference_inverse + m[5];
}

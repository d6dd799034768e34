// SPDX-License-Identifier: Apache-2.0
#include "gram.hpp"

#include <algorithm>
#include <cstring>

#include "clones.hpp"

namespace gantk::cpu {
namespace {

using std::int64_t;

constexpr int64_t kTerms = 512;  // Products summed in float32. 12 + 3 rows of them stay in the first cache.
constexpr int64_t kStride = kTerms + 16;  // Rows a power of two apart would share the cache's sets.
constexpr int kRows = 3, kColumns = 4;    // 12 sums, 3 rows and a column are the 16 registers of AVX2.
constexpr int64_t kTile = kRows * kColumns;
constexpr int64_t kTasks = 16;  // For one picture; small enough for the sums that each task has.
constexpr int64_t kSumsBytes = int64_t{8} << 20;  // Of all tasks, so that they stay in the last cache.

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

// One picture's work: `splits` ranges of places times `stripes` of rows, each a task.
struct Plan {
    int64_t padded, chunks, splits, stripes;

    explicit Plan(const Features& shape) {
        padded = round_up(shape.channels, kTile);
        chunks = divide_up(shape.places, kTerms);
        const int64_t fitting =
            std::max<int64_t>(1, kSumsBytes / (padded * padded * int64_t{sizeof(double)}));
        splits = std::min({chunks, kTasks, fitting});
        stripes = std::min(divide_up(kTasks, splits), padded / kTile);
    }

    int64_t chunk_of(int64_t split) const { return chunks * split / splits; }

    // The first row of a stripe. Rows grow longer downwards; stripes of equal area begin at square roots.
    int64_t row_of(int64_t stripe) const {
        int64_t row = 0;
        while (row < padded && row * row * stripes < padded * padded * stripe) row += kTile;
        return row;
    }

    int64_t sums() const { return splits * padded * padded; }
    int64_t packed() const { return padded * kStride; }
};

using Sums =
    double __attribute__((vector_size(kColumns * sizeof(double)), aligned(alignof(double)), may_alias));

// Neighbouring lanes of two vectors added: [a0+a1, b0+b1, a2+a3, b2+b3, ...].
inline __attribute__((always_inline)) Lanes add_pairs(Lanes a, Lanes b) {
    return __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14) +
           __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
}

// Adds the sum over lanes of each of four vectors to its place in `sums`.
inline __attribute__((always_inline)) void add_lanes(const Lanes* four, double* sums) {
    const Lanes first = add_pairs(four[0], four[1]), second = add_pairs(four[2], four[3]);
    const Lanes all = __builtin_shufflevector(first, second, 0, 1, 8, 9, 4, 5, 12, 13) +
                      __builtin_shufflevector(first, second, 2, 3, 10, 11, 6, 7, 14, 15);
    const auto four_sums =
        __builtin_shufflevector(all, all, 0, 1, 2, 3) + __builtin_shufflevector(all, all, 4, 5, 6, 7);
    *reinterpret_cast<Sums*>(sums) += __builtin_convertvector(four_sums, Sums);
}

// The products of kRows rows with kColumns others, a lane of a sum for every eighth term.
inline __attribute__((always_inline)) void multiply(const float* left, const float* right, int64_t terms,
                                                    Lanes (&sum)[kRows][kColumns]) {
    for (auto& sums_of_row : sum)
        for (Lanes& one : sums_of_row) one = Lanes{};  // An initialiser becomes a slow `rep stos`.
    for (int64_t term = 0; term < terms; term += kLanes) {
        Lanes rows[kRows];
        for (int r = 0; r < kRows; ++r) rows[r] = *reinterpret_cast<const Lanes*>(left + r * kStride + term);
        for (int c = 0; c < kColumns; ++c) {
            const Lanes other = *reinterpret_cast<const Lanes*>(right + c * kStride + term);
            for (int r = 0; r < kRows; ++r) sum[r][c] += rows[r] * other;
        }
    }
}

// Adds the products of packed rows [first, last) with all rows up to themselves to `sums` [padded, padded].
GANTK_CLONES void add_products(const float* packed, int64_t terms, int64_t first, int64_t last,
                               int64_t padded, double* sums) {
    for (int64_t tile = 0; tile < last; tile += kTile) {
        for (int64_t row = std::max(first, tile); row < last; row += kRows) {
            const int64_t end = std::min(tile + kTile, row + kRows);
            for (int64_t column = tile; column < end; column += kColumns) {
                Lanes sum[kRows][kColumns];
                multiply(packed + row * kStride, packed + column * kStride, terms, sum);
                for (int r = 0; r < kRows; ++r) add_lanes(sum[r], sums + (row + r) * padded + column);
            }
        }
    }
}

// Widens rows [0, last) of one chunk of places into `packed`, with zeros where there are none.
int64_t pack(const Features& shape, const void* features, int64_t picture, int64_t chunk, int64_t last,
             float* packed) {
    const int64_t begin = chunk * kTerms, count = std::min(kTerms, shape.places - begin);
    const int64_t terms = round_up(count, kLanes), given = std::min(last, shape.channels);
    for (int64_t row = 0; row < given; ++row) {
        float* line = packed + row * kStride;
        widen(shape.element, features, (picture * shape.channels + row) * shape.places + begin, count, line);
        std::fill(line + count, line + terms, 0.0f);
    }
    for (int64_t row = given; row < last; ++row) std::fill_n(packed + row * kStride, terms, 0.0f);
    return terms;
}

// Rows [first, last) of the matrix, and by symmetry these columns, from the sums of all splits in their
// order. Going down the columns writes the mirrored rows in runs.
void finish_rows(const Plan& plan, const double* sums, int64_t first, int64_t last, int64_t channels,
                 double scale, float* gram) {
    for (int64_t column = 0; column < last; ++column) {
        for (int64_t row = std::max(first, column); row < last; ++row) {
            double sum = 0;
            for (int64_t split = 0; split < plan.splits; ++split)
                sum += sums[(split * plan.padded + row) * plan.padded + column];
            gram[row * channels + column] = gram[column * channels + row] = static_cast<float>(sum * scale);
        }
    }
}

}  // namespace

std::size_t gram_workspace_bytes(const Features& shape) {
    const Plan plan(shape);
    const int64_t tasks = plan.splits * plan.stripes;
    return static_cast<std::size_t>(plan.sums()) * sizeof(double) +
           static_cast<std::size_t>(tasks * plan.packed()) * sizeof(float);
}

void gram_matrix(const Features& shape, const void* features, double scale, float* gram, void* workspace,
                 const Parallel& parallel) {
    const Plan plan(shape);
    double* const sums = static_cast<double*>(workspace);
    float* const packed = reinterpret_cast<float*>(sums + plan.sums());
    for (int64_t picture = 0; picture < shape.count; ++picture) {
        for_each(parallel, static_cast<std::size_t>(plan.splits * plan.stripes), [&](std::size_t index) {
            const int64_t task = static_cast<int64_t>(index), split = task / plan.stripes,
                          stripe = task % plan.stripes;
            const int64_t first = plan.row_of(stripe), last = plan.row_of(stripe + 1);
            double* const own = sums + split * plan.padded * plan.padded;
            float* const chunk_packed = packed + task * plan.packed();
            std::fill(own + first * plan.padded, own + last * plan.padded, 0.0);
            for (int64_t chunk = plan.chunk_of(split); chunk < plan.chunk_of(split + 1); ++chunk) {
                const int64_t terms = pack(shape, features, picture, chunk, last, chunk_packed);
                add_products(chunk_packed, terms, first, last, plan.padded, own);
            }
        });
        float* const result = gram + picture * shape.channels * shape.channels;
        for_each(parallel, static_cast<std::size_t>(divide_up(shape.channels, kTile)),
                 [&](std::size_t index) {
                     const int64_t first = static_cast<int64_t>(index) * kTile,
                                   last = std::min(first + kTile, shape.channels);
                     finish_rows(plan, sums, first, last, shape.channels, scale, result);
                 });
    }
}

}  // namespace gantk::cpu

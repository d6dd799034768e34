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
constexpr int64_t kTasks = 16;                    // For one picture.
constexpr int64_t kFewestSplits = 8;              // With fewer, rows are dealt to tasks instead of places.
constexpr int64_t kSumsBytes = int64_t{8} << 20;  // Of all splits, so that they stay in the last cache.

constexpr int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

// One picture's work. Of many places each task has a range, a split, with sums of its own; of many channels
// each has a stripe of rows, and all share the sums.
struct Plan {
    int64_t padded, chunks, splits, stripes;

    explicit Plan(const Features& shape) {
        padded = round_up(shape.channels, kTile);
        chunks = divide_up(shape.places, kTerms);
        const int64_t fitting = kSumsBytes / (padded * padded * int64_t{sizeof(double)});
        splits = std::min({chunks, kTasks, fitting});
        if (splits < kFewestSplits) splits = 1;
        stripes = splits > 1 ? 1 : std::min(kTasks, padded / kTile);
    }

    int64_t chunk_of(int64_t split) const { return chunks * split / splits; }

    // The first row of a stripe. Rows grow longer downwards; stripes of equal area begin at square roots.
    int64_t row_of(int64_t stripe) const {
        int64_t row = 0;
        while (row < padded && row * row * stripes < padded * padded * stripe) row += kTile;
        return row;
    }

    int64_t sums() const { return padded * padded; }  // Of one split.
    int64_t packed() const { return padded * kStride; }
};

using Sums __attribute__((vector_size(kColumns * sizeof(double)), aligned(alignof(double)), may_alias)) = double;
static_assert(alignof(Sums) == alignof(double));

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

// Widens packed rows [first, last) of a chunk of places, with zeros where there are none.
void pack(const Features& shape, const void* features, int64_t picture, int64_t chunk, int64_t first,
          int64_t last, float* packed) {
    const int64_t begin = chunk * kTerms, count = std::min(kTerms, shape.places - begin);
    for (int64_t row = first; row < last; ++row) {
        float* const line = packed + row * kStride;
        const int64_t given = row < shape.channels ? count : 0;
        if (given > 0)
            widen(shape.element, features, (picture * shape.channels + row) * shape.places + begin, count,
                  line);
        std::fill(line + given, line + round_up(count, kLanes), 0.0f);
    }
}

// Places of a chunk, and zeros that make up the last vector.
int64_t terms_of(const Features& shape, int64_t chunk) {
    return round_up(std::min(kTerms, shape.places - chunk * kTerms), kLanes);
}

// Rows [first, last) of the matrix, and by symmetry these columns, from the sums of all splits in their
// order. Going down the columns writes the mirrored rows in runs.
void finish_rows(const Plan& plan, const double* sums, int64_t first, int64_t last, int64_t channels,
                 double scale, float* gram) {
    for (int64_t column = 0; column < last; ++column) {
        for (int64_t row = std::max(first, column); row < last; ++row) {
            double sum = 0;
            for (int64_t split = 0; split < plan.splits; ++split)
                sum += sums[split * plan.sums() + row * plan.padded + column];
            gram[row * channels + column] = gram[column * channels + row] = static_cast<float>(sum * scale);
        }
    }
}

// Each task sums the products of a range of places, all rows.
void sum_splits(const Plan& plan, const Features& shape, const void* features, int64_t picture, double* sums,
                float* packed, const Parallel& parallel) {
    for_each(parallel, plan.splits, [&](int64_t split) {
        double* const own = sums + split * plan.sums();
        float* const own_packed = packed + split * plan.packed();
        std::fill_n(own, plan.sums(), 0.0);
        for (int64_t chunk = plan.chunk_of(split); chunk < plan.chunk_of(split + 1); ++chunk) {
            pack(shape, features, picture, chunk, 0, plan.padded, own_packed);
            add_products(own_packed, terms_of(shape, chunk), 0, plan.padded, plan.padded, own);
        }
    });
}

// Chunk after chunk of places, each task packs some rows, then it sums the products of a stripe.
void sum_stripes(const Plan& plan, const Features& shape, const void* features, int64_t picture, double* sums,
                 float* packed, const Parallel& parallel) {
    for (int64_t chunk = 0; chunk < plan.chunks; ++chunk) {
        for_each(parallel, plan.stripes, [&](int64_t task) {
            const auto row_of = [&](int64_t one) { return plan.padded * one / plan.stripes; };
            pack(shape, features, picture, chunk, row_of(task), row_of(task + 1), packed);
        });
        for_each(parallel, plan.stripes, [&](int64_t stripe) {
            const int64_t first = plan.row_of(stripe), last = plan.row_of(stripe + 1);
            if (chunk == 0) std::fill(sums + first * plan.padded, sums + last * plan.padded, 0.0);
            add_products(packed, terms_of(shape, chunk), first, last, plan.padded, sums);
        });
    }
}

}  // namespace

std::size_t gram_workspace_bytes(const Features& shape) {
    const Plan plan(shape);
    const auto splits = static_cast<std::size_t>(plan.splits);
    return splits * static_cast<std::size_t>(plan.sums()) * sizeof(double) +
           splits * static_cast<std::size_t>(plan.packed()) * sizeof(float);
}

void gram_matrix(const Features& shape, const void* features, double scale, float* gram, void* workspace,
                 const Parallel& parallel) {
    const Plan plan(shape);
    double* const sums = static_cast<double*>(workspace);
    float* const packed = reinterpret_cast<float*>(sums + plan.splits * plan.sums());
    for (int64_t picture = 0; picture < shape.count; ++picture) {
        const auto sum = plan.splits > 1 ? sum_splits : sum_stripes;
        sum(plan, shape, features, picture, sums, packed, parallel);
        float* const result = gram + picture * shape.channels * shape.channels;
        for_each(parallel, plan.padded / kTile, [&](int64_t block) {
            const int64_t first = block * kTile, last = std::min(first + kTile, shape.channels);
            finish_rows(plan, sums, first, last, shape.channels, scale, result);
        });
    }
}

}  // namespace gantk::cpu

// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <limits>

#include "clones.hpp"
#include "winograd_parts.hpp"

namespace gantk::cpu::winograd {
namespace {

using std::int64_t;

// Four floats of each of two strips; the tiles of a strip lie one after another, four floats apart.
constexpr int kQuad = 4;
using Quad __attribute__((vector_size(kQuad * sizeof(float)), aligned(alignof(float)), may_alias)) = float;
static_assert(alignof(Quad) == alignof(float));
constexpr int kColumns = 5;  // Quads in a row of features of a strip: 18 are wanted, 20 read.
constexpr int64_t kStaged = kColumns * kQuad;

using Vector = Lanes;
#include "winograd_points.inl"

// Vectors go through references: with processors that differ it matters how they would be returned.
GANTK_INLINE void join(const float* first, const float* second, Lanes& joined) {
    joined = __builtin_shufflevector(*reinterpret_cast<const Quad*>(first),
                                     *reinterpret_cast<const Quad*>(second), 0, 1, 2, 3, 4, 5, 6, 7);
}

// The 4 x 4 in each half.
GANTK_INLINE void transpose(Lanes& a, Lanes& b, Lanes& c, Lanes& d) {
    const Lanes low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13),
                high = __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15),
                other_low = __builtin_shufflevector(c, d, 0, 8, 1, 9, 4, 12, 5, 13),
                other_high = __builtin_shufflevector(c, d, 2, 10, 3, 11, 6, 14, 7, 15);
    a = __builtin_shufflevector(low, other_low, 0, 1, 8, 9, 4, 5, 12, 13);
    b = __builtin_shufflevector(low, other_low, 2, 3, 10, 11, 6, 7, 14, 15);
    c = __builtin_shufflevector(high, other_high, 0, 1, 8, 9, 4, 5, 12, 13);
    d = __builtin_shufflevector(high, other_high, 2, 3, 10, 11, 6, 7, 14, 15);
}

// The lanes of each half moved down by one; the last comes from the first of `next`.
GANTK_INLINE void shift(const Lanes& lanes, const Lanes& next, Lanes& shifted) {
    shifted = __builtin_shufflevector(lanes, next, 1, 2, 3, 8, 5, 6, 7, 12);
}

// The row or column that lies at a place of the border, or the same.
GANTK_INLINE int64_t place_of(const Convolution& shape, int64_t at, int64_t size) {
    if (!shape.reflected) return at;
    return at < 0 ? -at : at == size ? size - 2 : at;
}

// What the next channel reads, and writes, comes while this one is computed: walks of so many rows are more than
// processors foresee. Beyond the last channel nothing happens, for a place is never looked at.
GANTK_INLINE void fetch(const float* place) { __builtin_prefetch(place); }
GANTK_INLINE void fetch_to_write(const float* place) { __builtin_prefetch(place, 1); }
constexpr int64_t kAhead = 2;  // Channels between what is transformed and where its frequencies are fetched.

// Six rows of features, or of their mask, from the one above and left of a strip's first tile on, where they can
// be read: in place, or copied with zeros around them.
struct Rows {
    const float* first;
    int64_t stride;
};

GANTK_INLINE Rows find_rows(const Convolution& shape, const float* plane, const Tile& strip,
                            float (&staged)[6 * kStaged]) {
    const int64_t height = shape.height, width = shape.width, x = strip.x;
    const bool inside = strip.y > 0 && strip.y + 5 <= height && x > 0 && x - 1 + kStaged <= width;
    if (inside) {
        const float* const first = plane + (strip.y - 1) * width + x - 1;
        for (int64_t i = 0; i < 6; ++i) fetch(first + height * width + i * width);
        return {first, width};
    }
    for (int64_t i = 0; i < 6; ++i) {
        const int64_t y = place_of(shape, strip.y - 1 + i, height);
        float* const row = staged + i * kStaged;
        if (y < 0 || y >= height) {
            std::fill_n(row, kStaged, 0.0f);
            continue;
        }
        const float* const from = plane + y * width;
        const int64_t wide = std::min(width - x, kStripWidth + 1);  // A strip reads one beyond its own.
        if (wide < kStripWidth) {
            std::copy_n(from + x, wide, row + 1);
            std::fill_n(row + 1 + wide, kStaged - 1 - wide, 0.0f);
        } else {
            std::fill_n(row + kStripWidth, kQuad, 0.0f);
            std::copy_n(from + x, kStripWidth, row + 1);
            if (wide > kStripWidth) row[1 + kStripWidth] = from[x + kStripWidth];
        }
        row[0] = x > 0 ? from[x - 1] : shape.reflected ? from[1] : 0.0f;
        if (wide <= kStripWidth && shape.reflected) row[1 + wide] = from[width - 2];
    }
    return {staged, kStaged};
}

// Those of two strips, next to each other.
struct Pair {
    float staged[2][6 * kStaged];
    Rows rows[2];

    GANTK_INLINE Pair(const Convolution& shape, const float* plane, const Tile* tiles, int64_t channel) {
        const int64_t area = shape.height * shape.width;
        for (int64_t s = 0; s < 2; ++s) {
            const Tile& strip = tiles[s * kStripTiles];
            rows[s] = find_rows(shape, plane + (strip.picture * shape.inputs + channel) * area, strip, staged[s]);
        }
    }

    GANTK_INLINE void read(int row, int column, Lanes& values) const {
        join(rows[0].first + row * rows[0].stride + column * kQuad,
             rows[1].first + row * rows[1].stride + column * kQuad, values);
    }
};

// Columns of quads of features of two strips, in frequencies of rows. There may be no mask.
GANTK_INLINE void transform_pair(const Pair& features, const Pair* mask, Lanes (&columns)[6][kColumns]) {
    for (int j = 0; j < kColumns; ++j) {
        Lanes given[6], made[6];
        for (int i = 0; i < 6; ++i) {
            features.read(i, j, given[i]);
            if (mask == nullptr) continue;
            Lanes above;
            mask->read(i, j, above);
            given[i] = above > 0 ? given[i] : Lanes{};
        }
        to_frequencies(given, made);
        for (int i = 0; i < 6; ++i) columns[i][j] = made[i];
    }
}

GANTK_CLONES void transform_strips(const Convolution& shape, const Tensors& tensors, int64_t channel,
                                   const Panel& panel, float* frequencies, int64_t stride) {
    for (int64_t first = 0; first < kPanel; first += kLanes) {
        Lanes columns[6][kColumns];
        const Pair features(shape, tensors.features, panel.tiles + first, channel);
        if (tensors.mask) {
            const Pair mask(shape, tensors.mask, panel.tiles + first, channel);
            transform_pair(features, &mask, columns);
        } else {
            transform_pair(features, nullptr, columns);
        }
        for (int i = 0; i < 6; ++i) {
            Lanes given[6] = {columns[i][0], columns[i][1], columns[i][2], columns[i][3]}, made[6];
            transpose(given[0], given[1], given[2], given[3]);  // Now a lane is a tile.
            const Lanes &last = columns[i][4],
                        second = __builtin_shufflevector(last, last, 1, 1, 1, 1, 5, 5, 5, 5);
            shift(given[0], last, given[4]);  // A tile's fifth feature is the next one's first.
            shift(given[1], second, given[5]);
            to_frequencies(given, made);
            for (int j = 0; j < 6; ++j) {
                float* const row = frequencies + (i * 6 + j) * stride;
                *reinterpret_cast<Lanes*>(row + first) = made[j];
                if (first == 0) fetch_to_write(row + kAhead * kPanel);
            }
        }
    }
}

// The features of one tile, a lane of 36 vectors, with zeros around the picture.
GANTK_INLINE void gather(const Convolution& shape, const Tensors& tensors, int64_t channel, const Tile& tile,
                         int64_t lane, float (&staged)[6][6][kLanes]) {
    const int64_t plane = (tile.picture * shape.inputs + channel) * shape.height * shape.width;
    for (int64_t i = 0; i < 6; ++i) {
        const int64_t y = place_of(shape, tile.y - 1 + i, shape.height);
        if (y < 0 || y >= shape.height) continue;
        for (int64_t j = 0; j < 6; ++j) {
            const int64_t x = place_of(shape, tile.x - 1 + j, shape.width), at = plane + y * shape.width + x;
            if (x < 0 || x >= shape.width || (tensors.mask && !(tensors.mask[at] > 0))) continue;
            staged[i][j][lane] = tensors.features[at];
        }
    }
}

GANTK_CLONES void transform_tiles(const Convolution& shape, const Tensors& tensors, int64_t channel,
                                  const Panel& panel, float* frequencies, int64_t stride) {
    for (int64_t first = 0; first < kPanel; first += kLanes) {
        float staged[6][6][kLanes] = {};
        for (int64_t lane = 0; lane < kLanes; ++lane)
            gather(shape, tensors, channel, panel.tiles[first + lane], lane, staged);
        Lanes columns[6][6];
        for (int j = 0; j < 6; ++j) {
            Lanes given[6], made[6];
            for (int i = 0; i < 6; ++i) given[i] = *reinterpret_cast<const Lanes*>(staged[i][j]);
            to_frequencies(given, made);
            for (int i = 0; i < 6; ++i) columns[i][j] = made[i];
        }
        for (int i = 0; i < 6; ++i) {
            Lanes made[6];
            to_frequencies(columns[i], made);
            for (int j = 0; j < 6; ++j)
                *reinterpret_cast<Lanes*>(frequencies + (i * 6 + j) * stride + first) = made[j];
        }
    }
}

// A^T m A of eight tiles: rows of four results, tile by tile, of tiles 0 to 3 in the first half and of 4 to 7 in
// the second. Sums of one row and of one column of frequencies may be lacking.
template <int64_t kLackingRow = -1, int64_t kLackingColumn = -1>
GANTK_INLINE void make_results(const float* sums, Lanes (&made)[kSide][kSide]) {
    Lanes rows[kSide][6];
    for (int j = 0; j < 6; ++j) {
        Lanes given[6], column[kSide];
        for (int i = 0; i < 6; ++i)
            if (i == kLackingRow || j == kLackingColumn)
                given[i] = Lanes{};
            else
                given[i] = *reinterpret_cast<const Lanes*>(sums + (i * 6 + j) * kPanel);
        to_results(given, column);
        for (int i = 0; i < kSide; ++i) rows[i][j] = column[i];
    }
    for (int i = 0; i < kSide; ++i) {
        to_results(rows[i], made[i]);
        transpose(made[i][0], made[i][1], made[i][2], made[i][3]);
    }
}

// What is added to sums, and the least that they may be.
struct Ending {
    Lanes bias, floor;

    GANTK_INLINE Ending(const Tensors& tensors, int64_t channel)
        : bias(Lanes{} + (tensors.bias ? tensors.bias[channel] : 0.0f)),
          floor(Lanes{} + (tensors.relu ? 0.0f : -std::numeric_limits<float>::infinity())) {}

    GANTK_INLINE void finish(const Lanes& sum, Lanes& made) const {
        const Lanes value = sum + bias;
        made = value < floor ? floor : value;  // NaN stays.
    }
};

// Copies the results of four tiles into their places. They lie in rows, `kScale * kStripWidth` floats apart.
template <int64_t kScale>
GANTK_INLINE void write(const Convolution& shape, const float* made, const Tile* tiles, int64_t count, bool strip,
                        int64_t channel, float* result) {
    constexpr int64_t kWide = kScale * kStripWidth, kTile = kScale * kSide;
    const int64_t height = kScale * shape.height, width = kScale * shape.width;
    const int64_t widest = strip ? kWide : kTile;
    for (int64_t t = 0; t < count; t += strip ? kStripTiles : 1, made += widest) {
        const Tile& tile = tiles[t];
        const int64_t y = kScale * tile.y, x = kScale * tile.x, wide = std::min(widest, width - x);
        float* to = result + ((tile.picture * shape.outputs + channel) * height + y) * width + x;
        for (int64_t i = 0; i < std::min(kTile, height - y); ++i, to += width) {
            fetch_to_write(to + height * width);
            if (wide == kWide)
                std::copy_n(made + i * kWide, kWide, to);
            else
                std::copy_n(made + i * kWide, wide, to);
        }
    }
}

GANTK_CLONES void finish_results(const Convolution& shape, const Tensors& tensors, const float* sums,
                                 int64_t channel, const Panel& panel) {
    const Ending ending(tensors, channel);
    for (int64_t first = 0; first < panel.count; first += kLanes) {
        Lanes made[kSide][kSide];
        make_results(sums + first, made);
        float rows[2][kSide][kStripWidth];
        for (int i = 0; i < kSide; ++i)
            for (int j = 0; j < kSide; ++j) {
                Lanes kept;
                ending.finish(made[i][j], kept);
                *reinterpret_cast<Quad*>(rows[0][i] + j * kQuad) =
                    __builtin_shufflevector(kept, kept, 0, 1, 2, 3);
                *reinterpret_cast<Quad*>(rows[1][i] + j * kQuad) =
                    __builtin_shufflevector(kept, kept, 4, 5, 6, 7);
            }
        for (int64_t s = 0; s < 2; ++s) {
            const int64_t begin = first + s * kStripTiles;
            write<1>(shape, rows[s][0], panel.tiles + begin, std::min(kStripTiles, panel.count - begin),
                     panel.strips, channel, tensors.result);
        }
    }
}

// The results of even and of odd columns, in rows that are even or odd alike, next to each other.
template <int64_t kOdd>
GANTK_INLINE void finish_phases(const float* sums, int64_t stride, const Ending& ending,
                                float (&rows)[2][2 * kSide][2 * kStripWidth]) {
    Lanes made[2][kSide][kSide];
    make_results<lacking(kOdd), lacking(0)>(sums + 2 * kOdd * stride, made[0]);
    make_results<lacking(kOdd), lacking(1)>(sums + (2 * kOdd + 1) * stride, made[1]);
    for (int i = 0; i < kSide; ++i)
        for (int j = 0; j < kSide; ++j) {
            Lanes even, odd;
            ending.finish(made[0][i][j], even);
            ending.finish(made[1][i][j], odd);
            *reinterpret_cast<Lanes*>(rows[0][2 * i + kOdd] + 2 * j * kQuad) =
                __builtin_shufflevector(even, odd, 0, 8, 1, 9, 2, 10, 3, 11);
            *reinterpret_cast<Lanes*>(rows[1][2 * i + kOdd] + 2 * j * kQuad) =
                __builtin_shufflevector(even, odd, 4, 12, 5, 13, 6, 14, 7, 15);
        }
}

GANTK_CLONES void finish_transposed(const Convolution& shape, const Tensors& tensors, const float* sums,
                                    int64_t stride, int64_t channel, const Panel& panel) {
    const Ending ending(tensors, channel);
    for (int64_t first = 0; first < panel.count; first += kLanes) {
        float rows[2][2 * kSide][2 * kStripWidth];
        finish_phases<0>(sums + first, stride, ending, rows);
        finish_phases<1>(sums + first, stride, ending, rows);
        for (int64_t s = 0; s < 2; ++s) {
            const int64_t begin = first + s * kStripTiles;
            write<2>(shape, rows[s][0], panel.tiles + begin, std::min(kStripTiles, panel.count - begin),
                     panel.strips, channel, tensors.result);
        }
    }
}

}  // namespace

// Clones that other files could see would be seen from outside the library too, hidden or not.
void transform_features(const Convolution& shape, const Tensors& tensors, int64_t channel, const Panel& panel,
                        float* frequencies, int64_t stride) {
    if (panel.strips)
        transform_strips(shape, tensors, channel, panel, frequencies, stride);
    else
        transform_tiles(shape, tensors, channel, panel, frequencies, stride);
}

void transform_sums(const Convolution& shape, const Tensors& tensors, const float* sums, int64_t stride,
                    int64_t channel, const Panel& panel) {
    if (shape.transposed)
        finish_transposed(shape, tensors, sums, stride, channel, panel);
    else
        finish_results(shape, tensors, sums, channel, panel);
}

}  // namespace gantk::cpu::winograd

// SPDX-License-Identifier: Apache-2.0
#include "variation.hpp"

#include <algorithm>
#include <cmath>

#include "clones.hpp"

namespace gantk::cpu {
namespace {

using std::int64_t;

constexpr int64_t kRows = 64, kColumns = 1024;  // Of a tile, whose lines stay in the first cache.
constexpr int64_t kTasks = 64;
constexpr int64_t kLine = kColumns + 16;  // A pixel more to either side, and whole cache lines.

// Every plane (a channel of a picture) is cut into tiles; a task has several of them, one after the other.
struct Plan {
    int64_t down, across, tiles, all, tasks;

    explicit Plan(const Pictures& shape) {
        down = divide_up(shape.height, kRows);
        across = divide_up(shape.width, kColumns);
        tiles = shape.channels * down * across;  // Of one picture.
        all = shape.count * tiles;
        tasks = std::min(all, kTasks);
    }
};

// Lines of a tile. Pixel 0 of a line is the one left of the tile, where there is one.
struct Lines {
    float here[kLine], below[kLine];
    float by_dx[kLine];  // Slopes of terms by dx, one place on: [0] is that of the pixel before the line,
                         // which is 0.
    float by_dy[kLine], by_dy_above[kLine];
    float sums[kLine];  // Of the terms of a column.
    float gradient[kLine];
};

struct Tile {
    int64_t plane, top, bottom, left, right, start;

    Tile(const Plan& plan, const Pictures& shape, int64_t index) {
        const int64_t column = index % plan.across, row = index / plan.across % plan.down;
        plane = index / plan.across / plan.down;
        top = row * kRows;
        bottom = std::min(top + kRows, shape.height);
        left = column * kColumns;
        right = std::min(left + kColumns, shape.width);
        start = std::max<int64_t>(left - 1, 0);
    }
};

// Slopes of the terms of one row, and what these add to the sums of their columns. One loop a kind, for the
// compiler to make vectors of.
GANTK_CLONES void differentiate_l1(Lines& lines, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        const float dx = lines.here[i + 1] - lines.here[i], dy = lines.below[i] - lines.here[i];
        lines.sums[i] += std::fabs(dx) + std::fabs(dy);
        lines.by_dx[i + 1] = static_cast<float>((dx > 0) - (dx < 0));
        lines.by_dy[i] = static_cast<float>((dy > 0) - (dy < 0));
    }
}

GANTK_CLONES void differentiate_l2(Lines& lines, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        const float dx = lines.here[i + 1] - lines.here[i], dy = lines.below[i] - lines.here[i];
        lines.sums[i] += dx * dx + dy * dy;
        lines.by_dx[i + 1] = 2 * dx;
        lines.by_dy[i] = 2 * dy;
    }
}

GANTK_CLONES void differentiate_isotropic(Lines& lines, int64_t count, float epsilon) {
    for (int64_t i = 0; i < count; ++i) {
        const float dx = lines.here[i + 1] - lines.here[i], dy = lines.below[i] - lines.here[i];
        const float length = std::sqrt(dx * dx + dy * dy + epsilon);
        lines.sums[i] += length;
        lines.by_dx[i + 1] = dx / length;
        lines.by_dy[i] = dy / length;
    }
}

void differentiate(VariationKind kind, Lines& lines, int64_t count, float epsilon) {
    switch (kind) {
        case VariationKind::l1:
            return differentiate_l1(lines, count);
        case VariationKind::l2:
            return differentiate_l2(lines, count);
        case VariationKind::isotropic:
            return differentiate_isotropic(lines, count, epsilon);
    }
}

// A pixel is the far end of two differences, those of its left and upper neighbours, and the near end of its
// own two.
GANTK_CLONES void spread(Lines& lines, int64_t count) {
    for (int64_t i = 0; i < count; ++i)
        lines.gradient[i] = (lines.by_dx[i] - lines.by_dx[i + 1]) + (lines.by_dy_above[i] - lines.by_dy[i]);
}

// Widens a row of a tile and one pixel more on either side. Past the border the last pixel is repeated, so
// that the difference is 0.
void load(const Pictures& shape, const void* pictures, const Tile& tile, int64_t row, float* line) {
    const int64_t end = std::min(tile.right + 1, shape.width), count = end - tile.start;
    widen(shape.element, pictures, (tile.plane * shape.height + row) * shape.width + tile.start, count, line);
    line[count] = line[count - 1];
}

// The variation of one tile; its part of the gradient is written.
double sweep(const Pictures& shape, const Tile& tile, const void* pictures, VariationKind kind, float epsilon,
             void* gradient, Lines& lines) {
    const int64_t halo = tile.left - tile.start, count = tile.right - tile.start;
    lines.by_dx[0] = 0;
    std::fill_n(lines.by_dy, count, 0.0f);
    // The row above is only there for its slopes, and first, so that the rows of the tile are the last ones
    // summed.
    for (int64_t row = std::max<int64_t>(tile.top - 1, 0); row < tile.bottom; ++row) {
        if (row <= tile.top) {
            load(shape, pictures, tile, row, lines.here);
            std::fill_n(lines.sums, count, 0.0f);
        } else {
            std::copy_n(lines.below, count + 1, lines.here);
        }
        load(shape, pictures, tile, std::min(row + 1, shape.height - 1), lines.below);
        std::copy_n(lines.by_dy, count, lines.by_dy_above);
        differentiate(kind, lines, count, epsilon);
        if (row < tile.top) continue;
        spread(lines, count);
        narrow(shape.element, lines.gradient + halo, count - halo, gradient,
               (tile.plane * shape.height + row) * shape.width + tile.left);
    }
    double sum = 0;
    for (int64_t i = halo; i < count; ++i) sum += double{lines.sums[i]};
    return sum;
}

}  // namespace

std::size_t variation_workspace_bytes(const Pictures& shape) {
    const Plan plan(shape);
    return static_cast<std::size_t>(plan.tasks) * sizeof(Lines) +
           static_cast<std::size_t>(plan.all) * sizeof(double);
}

void total_variation(const Pictures& shape, const void* pictures, VariationKind kind, float epsilon,
                     float* value, void* gradient, void* workspace, const Parallel& parallel) {
    const Plan plan(shape);
    Lines* const lines = static_cast<Lines*>(workspace);
    double* const sums = reinterpret_cast<double*>(lines + plan.tasks);
    for_each(parallel, plan.tasks, [&](int64_t task) {
        for (int64_t at = plan.all * task / plan.tasks; at < plan.all * (task + 1) / plan.tasks; ++at)
            sums[at] = sweep(shape, Tile(plan, shape, at), pictures, kind, epsilon, gradient, lines[task]);
    });
    for (int64_t picture = 0; picture < shape.count; ++picture) {
        double sum = 0;
        for (int64_t tile = 0; tile < plan.tiles; ++tile) sum += sums[picture * plan.tiles + tile];
        value[picture] = static_cast<float>(sum);
    }
}

}  // namespace gantk::cpu

// SPDX-License-Identifier: Apache-2.0
// Winograd's filters for channels last: features of a *tile* of 6 x 6 pixels become 36 frequencies, all channels of
// each next to each other, and so do sums. The points, phases and products are those of winograd_parts.hpp.
#include <algorithm>
#include <vector>

#include "nhwc_loops.hpp"
#include "nhwc_rounding.hpp"
#include "tasks.hpp"
#include "winograd_parts.hpp"

namespace gantk::cpu::nhwc {
namespace {

using std::int64_t;

constexpr int64_t kBlock = kVector * kMostVectors;  // Outputs summed at a time.
// Tiles of a task, whose frequencies and sums stay in the second cache. The more there are, the less often weights are
// read.
template <typename Element>
constexpr int64_t kTiles = std::is_same_v<Element, float> ? 24 : 36;
constexpr int64_t kTransposedTiles = 18;
constexpr int64_t kSkew = 96;  // Frequencies a power of two apart would share the cache's sets.

cpu::Convolution planar(const Convolution& shape) {
    return {shape.count, shape.inputs, shape.outputs, shape.height, shape.width, shape.transposed};
}

int64_t phases_of(const Convolution& shape) { return winograd::phases_of(planar(shape)); }
bool has_product(const Convolution& shape, int64_t frequency, int64_t phase) {
    return winograd::has_product(planar(shape), frequency, phase);
}

// Weights of one product: [blocks][words][vectors][16] words.
int64_t product_size(const Convolution& shape) { return shape.inputs * shape.outputs; }

// Tiles of so many rows or columns of results, and where one begins. A dilated convolution is one of every `dilation`th
// pixel from each of the first on, whose tiles lie in between each other.
int64_t tiles_of(const Convolution& shape, int64_t results) {
    const int64_t side = kSide * shape.dilation, pixels = divide_up(results, shape.scale());
    return pixels / side * shape.dilation + std::min(pixels % side, shape.dilation);
}
int64_t start_of(const Convolution& shape, int64_t tile) {
    return tile / shape.dilation * kSide * shape.dilation + tile % shape.dilation;
}

template <typename Element>
struct Plan {
    int64_t down, across, tiles, blocks, block, phases, features_stride, sums_stride;

    explicit Plan(const Convolution& shape) : phases(phases_of(shape)) {
        down = tiles_of(shape, shape.result_height());
        across = tiles_of(shape, shape.result_width());
        tiles = winograd_tiles(shape);
        // An even number, for threads are.
        blocks = 2 * divide_up(tiles, 2 * (shape.transposed ? kTransposedTiles : kTiles<Element>));
        block = divide_up(tiles, blocks);
        blocks = divide_up(tiles, block);
        features_stride = block * shape.inputs + kSkew;
        sums_stride = block * kBlock + kSkew / 2;
    }

    int64_t features_bytes() const { return kFrequencies * features_stride * int64_t{sizeof(Element)}; }
    int64_t sums_bytes() const { return phases * kFrequencies * sums_stride * int64_t{sizeof(float)}; }
    std::size_t bytes() const { return static_cast<std::size_t>(features_bytes() + sums_bytes()); }
};
static_assert(kFrequencies * kSkew * sizeof(Bfloat) % 64 == 0);  // Sums lie behind frequencies.

template <typename Element>
class Call {
  public:
    Call(const Convolution& shape, const Tensors<Element>& tensors)
        : shape_(shape),
          tensors_(tensors),
          plan_(shape),
          endings_(shape, tensors),
          zeros_(static_cast<std::size_t>(shape.inputs)) {}

    const Plan<Element>& plan() const { return plan_; }

    void convolve_block(int64_t index, void* memory) const {
        auto* const features = static_cast<Element*>(memory);
        auto* const sums = reinterpret_cast<float*>(static_cast<char*>(memory) + plan_.features_bytes());
        const int64_t first = index * plan_.block, count = std::min(plan_.block, plan_.tiles - first);
        for (int64_t tile = 0; tile < count; ++tile) transform(first + tile, features + tile * shape_.inputs);
        for (int64_t output = 0; output < shape_.outputs; output += kBlock) {
            const int64_t outputs = std::min(kBlock, shape_.outputs - output);
            multiply(output, outputs, count, features, sums);
            for (int64_t tile = 0; tile < count; ++tile) finish(first + tile, output, outputs, sums + tile * outputs);
        }
    }

  private:
    struct Place {
        int64_t picture, y, x;
    };

    Place place_of(int64_t tile) const {
        const int64_t row = tile / plan_.across;
        return {row / plan_.down, start_of(shape_, row % plan_.down), start_of(shape_, tile % plan_.across)};
    }

    void transform(int64_t tile, Element* frequencies) const {
        Place place = place_of(tile);
        place.y -= shape_.border_before(), place.x -= shape_.border_before();
        const Element* places[kFrequencies];
        for (int64_t i = 0; i < kFrequencies; ++i) {
            const int64_t y = place.y + i / kReach * shape_.dilation, x = place.x + i % kReach * shape_.dilation;
            const bool inside = y >= 0 && y < shape_.height && x >= 0 && x < shape_.width;
            const int64_t at = (place.picture * shape_.height + y) * shape_.width + x;
            places[i] = inside ? tensors_.features + at * shape_.inputs : zeros_.data();
        }
        loops<Element>().transform_features(places, shape_.inputs, frequencies, plan_.features_stride);
    }

    void multiply(int64_t output, int64_t outputs, int64_t tiles, const Element* features, float* sums) const {
        const Element* weights = tensors_.packed + output * shape_.inputs;
        for (int64_t frequency = 0; frequency < kFrequencies; ++frequency)
            for (int64_t phase = 0; phase < plan_.phases; ++phase) {
                if (!has_product(shape_, frequency, phase)) continue;
                loops<Element>().multiply(features + frequency * plan_.features_stride, tiles, shape_.inputs,
                                          shape_.inputs / kTogether<Element>, weights, vectors_of(outputs),
                                          sums + (phase * kFrequencies + frequency) * plan_.sums_stride, outputs);
                weights += product_size(shape_);
            }
    }

    void finish(int64_t tile, int64_t output, int64_t outputs, const float* sums) const {
        const Place place = place_of(tile);
        const int64_t scale = shape_.scale(), high = shape_.result_height(), wide = shape_.result_width();
        const Ending<Element> ending = endings_.from(output);
        for (int64_t phase = 0; phase < plan_.phases; ++phase) {
            Element* results[kSide * kSide];
            for (int64_t i = 0; i < kSide * kSide; ++i) {
                const int64_t y = (place.y + i / kSide * shape_.dilation) * scale + phase / 2;
                const int64_t x = (place.x + i % kSide * shape_.dilation) * scale + phase % 2;
                const int64_t at = (place.picture * high + y) * wide + x;
                const bool inside = y < high && x < wide;
                results[i] = inside ? tensors_.result + at * shape_.outputs + output : nullptr;
            }
            loops<Element>().transform_sums(sums + phase * kFrequencies * plan_.sums_stride, plan_.sums_stride,
                                            shape_.transposed ? static_cast<int>(phase) : -1, outputs, ending,
                                            results);
        }
    }

    const Convolution& shape_;
    const Tensors<Element>& tensors_;
    Plan<Element> plan_;
    Endings<Element> endings_;
    std::vector<Element> zeros_;
};

}  // namespace

bool has_winograd(const Convolution& shape) {
    const bool kernel = shape.transposed ||
                        (shape.kernel_height == 3 && shape.kernel_width == 3 && shape.stride == 1);
    return kernel && shape.inputs % kVector == 0 && shape.outputs % kVector == 0;
}

int64_t winograd_tiles(const Convolution& shape) {
    return shape.count * tiles_of(shape, shape.result_height()) * tiles_of(shape, shape.result_width());
}

template <typename Element>
std::size_t winograd_weights_bytes(const Convolution& shape) {
    int64_t products = 0;
    for (int64_t frequency = 0; frequency < kFrequencies; ++frequency)
        for (int64_t phase = 0; phase < phases_of(shape); ++phase) products += has_product(shape, frequency, phase);
    return static_cast<std::size_t>(products * product_size(shape)) * sizeof(Element);
}

template <typename Element>
void winograd_weights(const Convolution& shape, const Element* weights, Element* packed, const Parallel& parallel) {
    const cpu::Convolution kind = planar(shape);
    const int64_t taps = shape.transposed ? 16 : 9;
    std::vector<float> wide(static_cast<std::size_t>(taps * shape.inputs * shape.outputs));
    widen(kElement<Element>, weights, 0, static_cast<int64_t>(wide.size()), wide.data());
    std::vector<Rounding> roundings;
    for (int64_t phase = 0; phase < phases_of(shape); ++phase) {
        std::vector<int> frequencies;
        for (int frequency = 0; frequency < kFrequencies; ++frequency)
            if (has_product(shape, frequency, phase)) frequencies.push_back(frequency);
        roundings.emplace_back(frequencies);
    }
    for_each(parallel, shape.outputs, [&](int64_t output) {
        const int64_t begin = output / kBlock * kBlock, across = std::min(kBlock, shape.outputs - begin);
        for (int64_t input = 0; input < shape.inputs; ++input) {
            Element made[4][kFrequencies];
            for (int64_t phase = 0; phase < phases_of(shape); ++phase) {
                double kernel[3][3] = {}, exact[kFrequencies];
                winograd::read_kernel(kind, wide.data(), output, input, phase, kernel);
                winograd::transform_kernel(kernel, exact);
                if constexpr (std::is_same_v<Element, float>)
                    std::transform(exact, exact + kFrequencies, made[phase],
                                   [](double value) { return static_cast<float>(value); });
                else
                    roundings[static_cast<std::size_t>(phase)].round(exact, made[phase]);
            }
            constexpr int64_t kOne = kTogether<Element>;
            Element* to = packed + begin * shape.inputs +
                          (input / kOne * across + output - begin) * kOne + input % kOne;
            for (int64_t frequency = 0; frequency < kFrequencies; ++frequency)
                for (int64_t phase = 0; phase < phases_of(shape); ++phase) {
                    if (!has_product(shape, frequency, phase)) continue;
                    *to = made[phase][frequency];
                    to += product_size(shape);
                }
        }
    });
}

template <typename Element>
void winograd_convolution(const Convolution& shape, const Tensors<Element>& tensors, const Memory& memory,
                          const Parallel& parallel) {
    const Call<Element> call(shape, tensors);
    for_each_in_memory(parallel, memory, call.plan().blocks, call.plan().bytes(),
                       [&](int64_t block, void* own) { call.convolve_block(block, own); });
}

template std::size_t winograd_weights_bytes<float>(const Convolution&);
template std::size_t winograd_weights_bytes<Bfloat>(const Convolution&);
template void winograd_weights(const Convolution&, const float*, float*, const Parallel&);
template void winograd_weights(const Convolution&, const Bfloat*, Bfloat*, const Parallel&);
template void winograd_convolution(const Convolution&, const Tensors<float>&, const Memory&, const Parallel&);
template void winograd_convolution(const Convolution&, const Tensors<Bfloat>&, const Memory&, const Parallel&);

}  // namespace gantk::cpu::nhwc

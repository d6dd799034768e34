// SPDX-License-Identifier: Apache-2.0
// Prints the C++ plan of each line of numbers on standard input; test_gram_gradient_plan.py compares it with Python's.
#include <cstdio>
#include <iostream>

#include <gantk/kernels/gram_gradient_plan.hpp>
#include <gantk/kernels/gram_plan.hpp>  // One program may use both.

using namespace gantk::kernels;

namespace {

template <class Type>
Type* address(int64_t value) {
    return reinterpret_cast<Type*>(value);
}

void print(const Launch& launch) {
    std::printf("%s %s %u %u %u %u %u %d ", launch.unit.c_str(), launch.kernel.c_str(), launch.grid.x, launch.grid.y,
                launch.grid.z, launch.block.x, launch.shared_bytes, launch.dependent);
    for (unsigned char byte : launch.parameters) std::printf("%02x", byte);
    std::printf("\n");
}

void plan(const Device& device, Precision precision, bool style, const std::vector<Features>& layers) try {
    const GramGradientPlan plan = plan_gram_gradient(layers, device, precision);
    std::printf("%lld %lld\n", static_cast<long long>(plan.at_once), static_cast<long long>(plan.workspace_bytes));
    std::vector<GradientLayerData> data(layers.size());
    for (size_t i = 0; i < layers.size(); ++i) {
        const auto base = static_cast<int64_t>(i + 1) << 44;
        data[i].gradient = address<float>(base + 4096);
        data[i].features = address<void>(base);
        data[i].result = address<void>(base + 8192);
        data[i].has_strides = style;
        data[i].gradient_batch_stride = 7;
        data[i].gradient_row_stride = 3;
        data[i].gradient_column_stride = 2;
        data[i].weight = 0.1 * static_cast<double>(i + 1);
    }
    const GradientStyle upstream{address<float>(int64_t{1} << 41), 5};
    for (const Launch& launch : plan.launches(data, address<void>(int64_t{1} << 40), style ? &upstream : nullptr)) {
        print(launch);
    }
} catch (const PlanError&) {
    std::printf("refused\n");
}

}  // namespace

int main() {
    Device device;
    int precision = 0, style = 0;
    size_t count = 0;
    while (std::cin >> device.major >> device.minor >> device.multiprocessors >> device.shared_bytes >> precision >>
           style >> count) {
        std::vector<Features> layers(count);
        for (Features& layer : layers) {
            int element = 0;
            std::cin >> element >> layer.pictures >> layer.channels >> layer.places >> layer.batch_stride >>
                layer.channel_stride >> layer.place_stride >> layer.alignment;
            layer.element = static_cast<Element>(element);
        }
        plan(device, static_cast<Precision>(precision), style != 0, layers);
        std::printf(".\n");
    }
}

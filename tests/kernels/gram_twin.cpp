// SPDX-License-Identifier: Apache-2.0
// Prints the C++ plan of each line of numbers on standard input; test_gram_plan.py compares it with Python's.
#include <cstdio>
#include <iostream>

#include <gantk/kernels/gram_plan.hpp>

using namespace gantk::kernels;

namespace {

template <class Type>
const Type* address(int64_t value) {
    return reinterpret_cast<const Type*>(value);
}

void print(const Launch& launch) {
    std::printf("%s %s %u %u %u %u %u %d ", launch.unit.c_str(), launch.kernel.c_str(), launch.grid.x, launch.grid.y,
                launch.grid.z, launch.block.x, launch.shared_bytes, launch.dependent);
    for (unsigned char byte : launch.parameters) std::printf("%02x", byte);
    for (const TensorMap& map : launch.tensor_maps) {
        std::printf(" %d %llx %d %d", map.offset, static_cast<unsigned long long>(map.address),
                    static_cast<int>(map.element), static_cast<int>(map.as_tf32));
        for (uint64_t size : map.sizes) std::printf(" %llu", static_cast<unsigned long long>(size));
        for (uint64_t stride : map.strides_bytes) std::printf(" %llu", static_cast<unsigned long long>(stride));
        for (uint32_t size : map.box) std::printf(" %u", size);
        std::printf(" %d", map.swizzle_bytes);
    }
    std::printf("\n");
}

void plan(const Device& device, Precision precision, bool style, const std::vector<Features>& layers) try {
    const GramPlan plan = plan_gram(layers, device, precision, style);
    std::printf("%lld %lld\n", static_cast<long long>(plan.at_once), static_cast<long long>(plan.workspace_bytes));
    std::vector<GramLayerData> data(layers.size());
    for (size_t i = 0; i < layers.size(); ++i) {
        const auto base = static_cast<int64_t>(i + 1) << 44;
        data[i].features = address<void>(base);
        data[i].gram = const_cast<float*>(address<float>(base + 4096));
        data[i].target = address<float>(base + 8192);
        data[i].target_stride = i % 2 == 0 ? 0 : layers[i].channels * layers[i].channels;
        data[i].weight = 0.1 * static_cast<double>(i + 1);
    }
    const auto workspace = const_cast<void*>(address<void>(int64_t{1} << 40));
    const auto loss = const_cast<float*>(address<float>(int64_t{1} << 41));
    for (const Launch& launch : plan.launches(data, workspace, style ? loss : nullptr)) print(launch);
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

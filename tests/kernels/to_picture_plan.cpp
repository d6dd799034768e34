// SPDX-License-Identifier: Apache-2.0
// Plans what each line of the input describes, and prints the launch, so that Python can run it.
#include <iostream>
#include <sstream>

#include <gantk/kernels/to_picture_plan.hpp>

using namespace gantk::kernels;

int main() {
    for (std::string text; std::getline(std::cin, text);) {
        std::istringstream line(text);
        std::array<int64_t, 4> features{}, weights{};
        int32_t alignment = 0;
        uint64_t addresses[5] = {};
        for (auto& size : features) line >> size;
        for (auto& size : weights) line >> size;
        line >> alignment;
        for (auto& address : addresses) line >> address;
        try {
            const ToPicturePlan plan = plan_to_picture(features, weights, alignment);
            ToPictureData data;
            data.features = reinterpret_cast<const void*>(addresses[0]);
            data.before = reinterpret_cast<const float*>(addresses[1]);
            data.weights = reinterpret_cast<const void*>(addresses[2]);
            data.bias = reinterpret_cast<const float*>(addresses[3]);
            data.picture = reinterpret_cast<void*>(addresses[4]);
            const Launch launch = plan.launch(data);
            for (const int64_t size : plan.picture_shape) std::cout << size << ' ';
            std::cout << launch.unit << ' ' << launch.kernel << ' ' << launch.grid.x << ' ' << launch.grid.y << ' '
                      << launch.grid.z << ' ' << launch.block.x << ' ' << launch.block.y << ' ' << launch.dependent << ' ' << std::hex;
            for (const unsigned char byte : launch.parameters) std::cout << int(byte / 16) << int(byte % 16);
            std::cout << std::dec << '\n';
        } catch (const PlanError& error) {
            std::cout << "refused: " << error.what() << '\n';
        }
    }
}

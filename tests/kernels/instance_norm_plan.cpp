// SPDX-License-Identifier: Apache-2.0
// Plans what each line of the input describes, and prints the launches, so that Python can run them.
#include <iostream>
#include <sstream>

#include <gantk/kernels/instance_norm_plan.hpp>

using namespace gantk::kernels;

static void print(const Launch& launch) {
    std::cout << ' ' << launch.unit << ' ' << launch.kernel << ' ' << launch.grid.x << ' ' << launch.grid.y << ' '
              << launch.grid.z << ' ' << launch.block.x << ' ' << launch.block.y << ' ' << launch.dependent << ' ' << std::hex;
    for (const unsigned char byte : launch.parameters) std::cout << int(byte / 16) << int(byte % 16);
    std::cout << std::dec;
}

template <class Numbers>
static void read(std::istream& line, Numbers& numbers) {
    for (auto& number : numbers) line >> number;
}

int main() {
    for (std::string text; std::getline(std::cin, text);) {
        std::istringstream line(text);
        NormPictures what;
        Device device;
        int32_t element = 0;
        uint32_t border = 0;
        uint64_t addresses[6] = {};
        line >> element;
        read(line, what.shape);
        line >> what.from >> what.to;
        read(line, what.starts);
        read(line, what.ends);
        line >> border;
        read(line, what.pads);
        read(line, what.others);
        read(line, what.others_starts);
        line >> what.scale_of_each >> what.normalizes >> what.rectifies >> what.epsilon >> what.alignment >> device.multiprocessors;
        read(line, addresses);
        what.element = Element(element);
        what.border = Border(border);
        try {
            const InstanceNormPlan plan = plan_instance_norm(what, device);
            NormData data;
            data.features = reinterpret_cast<const void*>(addresses[0]);
            data.others = reinterpret_cast<const void*>(addresses[1]);
            data.result = reinterpret_cast<void*>(addresses[2]);
            data.scale = reinterpret_cast<const float*>(addresses[3]);
            data.offset = reinterpret_cast<const float*>(addresses[4]);
            std::cout << plan.workspace_bytes;
            for (const int64_t size : plan.result_shape) std::cout << ' ' << size;
            for (const Launch& launch : plan.launches(data, reinterpret_cast<void*>(addresses[5]))) print(launch);
            std::cout << '\n';
        } catch (const PlanError& error) {
            std::cout << "refused: " << error.what() << '\n';
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
// Plans what each line of the input describes, and prints the plan, so that Python can compare it with its own.
#include <iostream>
#include <sstream>

#include <gantk/kernels/variation_plan.hpp>

using namespace gantk::kernels;

static Pictures read_pictures(std::istream& line) {
    Pictures found;
    int32_t element = 0;
    line >> element;
    found.element = Element(element);
    for (int64_t& size : found.shape) line >> size;
    for (int64_t& stride : found.strides) line >> stride;
    line >> found.alignment;
    return found;
}

static void print(const VariationPlan& plan) {
    const auto [one, two] = std::pair(plan.launches(16, 32, 48, 64, 80), plan.launches(16, 32, 48, 64, 0));
    std::cout << plan.kernel << ' ' << plan.grid.x << ' ' << plan.grid.y << ' ' << plan.grid.z << ' '
              << plan.workspace_bytes << ' ' << plan.counters << ' ' << two.size() << ' ' << one.size() << ' '
              << one.front().dependent << two.back().dependent << ' ' << std::hex;
    for (const unsigned char byte : one.front().parameters)
        std::cout << int(byte / 16) << int(byte % 16);
    std::cout << std::dec << '\n';
}

int main() {
    for (std::string text; std::getline(std::cin, text);) {
        std::istringstream line(text);
        uint32_t kind = 0;
        double eps = 0;
        Device device;
        bool wants_gradient = false;
        const Pictures pictures = read_pictures(line);
        const Pictures gradient = read_pictures(line);
        line >> kind >> eps >> device.multiprocessors >> wants_gradient;
        try {
            print(plan_variation(pictures, VariationKind(kind), eps, device, wants_gradient ? &gradient : nullptr));
        } catch (const PlanError&) {
            std::cout << "refused\n";
        }
    }
}

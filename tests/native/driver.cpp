// SPDX-License-Identifier: Apache-2.0
// Launches through `kernels/driver` before a driver that tells what it is asked to do (fake_driver.cpp).
#include <cstdio>

#include "driver.hpp"
#include "units.hpp"

namespace gantk::driver {

const Unit kUnits[] = {{"first", reinterpret_cast<const unsigned char*>("first")},
                       {"second", reinterpret_cast<const unsigned char*>("second")},
                       {"old", reinterpret_cast<const unsigned char*>("old")}};
const int kUnitCount = 3;

}  // namespace gantk::driver

namespace {

using gantk::kernels::Launch;

Launch launch_of(const char* unit, const char* kernel, std::uint32_t shared_bytes, std::uint64_t parameter,
                 bool dependent = false) {
    return {unit, kernel, {7, 2, 3}, {128, 1, 1}, shared_bytes, gantk::kernels::bytes_of(parameter), {}, dependent};
}

void refused(const char* what, const Launch& launch) {
    try {
        gantk::driver::launch({launch}, nullptr);
        std::printf("%s: nothing was said\n", what);
    } catch (const gantk::driver::Error& error) {
        std::printf("%s: %s\n", what, error.what());
    }
}

}  // namespace

int main() {
    try {
        const auto& device = gantk::driver::current_device();
        std::printf("device %d.%d, %d, %ld\n", device.major, device.minor, device.multiprocessors,
                    static_cast<long>(device.shared_bytes));
    } catch (const gantk::driver::Error& error) {
        std::printf("%s\n", error.what());
        return 1;
    }
    const auto stream = reinterpret_cast<CUstream>(5);
    gantk::driver::launch({launch_of("first", "a", 0, 0x10), launch_of("second", "b", 65536, 0x20)}, stream);
    gantk::driver::launch({launch_of("first", "a", 49152, 0x11), launch_of("first", "c", 0, 0x30)}, stream);
    gantk::driver::launch({launch_of("second", "b", 65536, 0x21), launch_of("second", "b", 98304, 0x22)},
                          stream);
    Launch mapped = launch_of("first", "a", 0, 0x40);
    mapped.parameters.resize(192);
    gantk::kernels::TensorMap map;
    map.address = 0x1000;
    map.element = gantk::kernels::Element::float16;
    map.sizes = {4096, 64};
    map.strides_bytes = {8192};
    map.box = {64, 32};
    mapped.tensor_maps.push_back(map);
    gantk::driver::launch({mapped}, stream);
    mapped.tensor_maps[0].element = gantk::kernels::Element::float32;
    mapped.tensor_maps[0].as_tf32 = true;
    mapped.tensor_maps[0].offset = 64;
    mapped.tensor_maps[0].swizzle_bytes = 0;
    gantk::driver::launch({mapped}, stream);
    // The last is for an architecture without such launches.
    gantk::driver::launch({launch_of("first", "a", 0, 0x50), launch_of("first", "a", 0, 0x51, true),
                           launch_of("old", "a", 0, 0x52, true)},
                          stream);
    refused("unit", launch_of("third", "a", 0, 0));
    refused("kernel", launch_of("first", "missing", 0, 0));
    for (const std::uintptr_t address : {0x1000, 0x1002, 0x1004, 0x1008, 0x1001})
        std::printf("%d ", gantk::driver::alignment_of(reinterpret_cast<void*>(address)));
    std::printf("\n");
}

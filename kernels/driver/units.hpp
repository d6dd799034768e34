// SPDX-License-Identifier: Apache-2.0
// The compiled units of `cuda/`, which CMake embeds.
#pragma once

namespace gantk::driver {

struct Unit {
    const char* name;
    const unsigned char* image;  // A fatbin, of which the driver takes what suits the GPU.
};

extern const Unit kUnits[];
extern const int kUnitCount;

}  // namespace gantk::driver

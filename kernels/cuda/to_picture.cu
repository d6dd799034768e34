// SPDX-License-Identifier: Apache-2.0
// Entry point: gantk_to_picture_float16.
#include "to_picture.cuh"

using namespace gantk::kernels;

extern "C" __global__ void __launch_bounds__(kPictureThreads, 2)
    gantk_to_picture_float16(const __grid_constant__ ToPictureParameters p) {
    to_picture(p);
}

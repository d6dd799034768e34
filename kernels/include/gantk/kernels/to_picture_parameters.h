// SPDX-License-Identifier: Apache-2.0
// What the kernel of a generator's last layer is given.
#pragma once

#include <gantk/kernels/types.h>

namespace gantk::kernels {

constexpr int kPictureThreads = 256;
constexpr int kPictureTile = 16;      // Pixels along the sides of the features that a block reads, without their border.
constexpr int kPictureChunk = 32;     // Channels that are in shared memory at once.
constexpr int kPictureChannels = 8;   // Of the picture, at most.
constexpr int kPictureTaps = 16;      // Of a kernel of 4 x 4.

// Features have channels last, the picture has them first. All sizes are above 0, `channels` a multiple of 8.
struct ToPictureParameters {
    const void* features;  // [N, height, width, channels], from a multiple of 16 bytes.
    const float* before;   // [channels]: added to them; then negative ones become 0.
    const void* weights;   // [channels, made, 4, 4], from a multiple of 16 bytes.
    const float* bias;     // [made]
    void* picture;         // [N, made, 2 height, 2 width], from a multiple of 4 bytes.
    int32_t height;
    int32_t width;
    int32_t channels;
    int32_t made;  // Channels of the picture.
};

}  // namespace gantk::kernels

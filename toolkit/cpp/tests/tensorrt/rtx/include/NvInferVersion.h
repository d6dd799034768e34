// SPDX-License-Identifier: Apache-2.0
#pragma once

#define TRT_MAJOR_RTX 1
#define TRT_MINOR_RTX 7
#define NV_TENSORRT_MAJOR TRT_MAJOR_RTX
#define NV_TENSORRT_MINOR TRT_MINOR_RTX
#define NV_TENSORRT_VERSION 10700

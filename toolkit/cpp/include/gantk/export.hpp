// SPDX-License-Identifier: Apache-2.0
// Which symbols the shared library shows.
#pragma once

#if defined(GANTK_BUILDING)
#define GANTK_API __attribute__((visibility("default")))
#else
#define GANTK_API
#endif

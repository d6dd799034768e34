// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace gantk {

// The one probe of NVIDIA's driver, asked once a process: why no GPU can be used here, or nothing where one can.
const std::string& driver_fault();

}  // namespace gantk

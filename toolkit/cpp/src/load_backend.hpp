// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace gantk {

// Loads the libraries that the environment variable GANTK_BACKENDS names, once a process. Throws Error, at every
// call, where one could not be loaded.
void load_named_backends();

}  // namespace gantk

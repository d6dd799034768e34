// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dlfcn.h>

namespace gantk {

// A function of a library that is open, or nothing where it has none of this name.
template <class Function>
Function* symbol(void* library, const char* name) {
  return reinterpret_cast<Function*>(::dlsym(library, name));
}

}  // namespace gantk

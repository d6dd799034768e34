# SPDX-License-Identifier: Apache-2.0
# Finds a package that gantk cannot be built without, or says what to install.
function(gantk_require package target hint)
  find_package(${package} QUIET ${ARGN})
  if(NOT TARGET ${target})
    message(FATAL_ERROR "gantk wants ${package}, which is not here.\n  hint: ${hint}")
  endif()
endfunction()

# SPDX-License-Identifier: Apache-2.0
# For builds of tests, by -DCMAKE_PROJECT_gantk_INCLUDE: what all programs include is compiled once for them, by GCC.
set(header ${CMAKE_BINARY_DIR}/precompiled.hpp)
file(WRITE ${header} "#include \"gantk/pictures.hpp\"\n#include \"gantk/runner.hpp\"\n")
# GCC takes it where the options are the same, and reads the header itself where they are not, in libraries.
set(CMAKE_CXX_EXTENSIONS OFF)
separate_arguments(options UNIX_COMMAND "-std=c++20 -Wpedantic ${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_RELEASE}")
execute_process(
  COMMAND ${CMAKE_CXX_COMPILER} ${options} -I ${CMAKE_CURRENT_SOURCE_DIR}/include -x c++-header ${header} -o ${header}.gch
  COMMAND_ERROR_IS_FATAL ANY)
add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:SHELL:-include ${header} -Winvalid-pch>")

# SPDX-License-Identifier: Apache-2.0
# What may be asked for, what is found, and what to install for the rest.

set(ONNXRUNTIME_ROOT "" CACHE PATH "Where ONNX Runtime's headers are, in include/ or include/onnxruntime/")
set(TENSORRT_ROOT "" CACHE PATH "Where TensorRT's headers are, in include/; builds the plugins")
set(GANTK_CUDA "AUTO" CACHE STRING "The kernels for GPUs: ON, OFF, or AUTO: where nvcc is found")
set_property(CACHE GANTK_CUDA PROPERTY STRINGS AUTO ON OFF)
set(GANTK_CUDA_ARCHITECTURES "75;80;86;89;90a;100;120" CACHE STRING "The GPUs that kernels are compiled for")
option(GANTK_SANITIZE "Check addresses and undefined behaviour while running" OFF)
option(GANTK_TESTS "The test program of the CPU kernels" OFF)

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 12)
  message(FATAL_ERROR "g++ ${CMAKE_CXX_COMPILER_VERSION} is too old; 12 or later is wanted: "
                      "apt install g++-12, then -DCMAKE_CXX_COMPILER=g++-12")
endif()

set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
# A maker that no signature has is a kernel that never runs. Vectors are never passed between functions of two processors.
add_compile_options($<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wunused-const-variable=1> -Wall -Wextra -Wno-psabi)
if(GANTK_SANITIZE)
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=address,undefined)
endif()

# The last place is where .ci/packages lays Debian's headers.
find_path(GANTK_ONNXRUNTIME_INCLUDE onnxruntime_cxx_api.h
  HINTS "${ONNXRUNTIME_ROOT}" ENV ONNXRUNTIME_ROOT "${CMAKE_CURRENT_SOURCE_DIR}/../build/debian/usr"
  PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session)
if(NOT GANTK_ONNXRUNTIME_INCLUDE)
  set(kind WARNING)
  if(SKBUILD)  # pip was asked for nothing else.
    set(kind FATAL_ERROR)
  endif()
  message(${kind} "gantk_onnxruntime is left out: ONNX Runtime's headers are missing. "
                  "apt install libonnxruntime-dev (Debian 13 or later), or the folder of a release archive, which has "
                  "include/onnxruntime_cxx_api.h, as -DONNXRUNTIME_ROOT=FOLDER or ONNXRUNTIME_ROOT in the "
                  "environment")
endif()
if(TENSORRT_ROOT AND NOT EXISTS "${TENSORRT_ROOT}/include/NvInfer.h")
  message(FATAL_ERROR "TENSORRT_ROOT is `${TENSORRT_ROOT}`, which has no include/NvInfer.h")
endif()

# SPDX-License-Identifier: Apache-2.0
# The kernels of cuda/*.cu, compiled for every architecture and embedded. They are launched through the driver, which
# is looked for at run time, so that one library also works where there is no GPU.

find_program(GANTK_NVCC nvcc HINTS "${CUDAToolkit_ROOT}" ENV CUDA_HOME PATHS /usr/local/cuda PATH_SUFFIXES bin)
get_filename_component(nvcc_folder "${GANTK_NVCC}" DIRECTORY)
find_path(GANTK_CUDA_INCLUDE cuda.h HINTS "${nvcc_folder}/../include" "${CUDAToolkit_ROOT}/include" ENV CUDA_HOME
  PATHS /usr/local/cuda/include PATH_SUFFIXES include)
file(GLOB GANTK_CUDA_UNITS CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/cuda/*.cu")
set(GANTK_HAS_CUDA OFF)
if(GANTK_CUDA STREQUAL "OFF")
  message(STATUS "gantk: CPU kernels only, as asked")
elseif(GANTK_NVCC AND GANTK_CUDA_INCLUDE)
  set(GANTK_HAS_CUDA ON)
elseif(GANTK_CUDA STREQUAL "AUTO")
  message(STATUS "gantk: CPU kernels only, for want of nvcc or cuda.h; install the CUDA toolkit, or -DCUDAToolkit_ROOT=FOLDER")
else()
  message(FATAL_ERROR "GANTK_CUDA is ON and nvcc or cuda.h is missing: install the CUDA toolkit, or -DCUDAToolkit_ROOT=FOLDER")
endif()

# SPDX-License-Identifier: Apache-2.0
# The headers of ONNX Runtime, and the library that gantk tries first when a program runs.
#
# Looks in ONNXRUNTIME_ROOT (a release as it is unpacked, or a Python package's `capi` folder for the library alone),
# in the system, and in build/debian of the source tree, where .ci/packages lays Debian's headers.
#
#   OnnxRuntime::headers     what to compile with; nothing is linked, for the library is loaded when it is used
#   ONNXRUNTIME_LIBRARY      the full name of a library, or empty: then the system's is taken at run time
set(ONNXRUNTIME_ROOT "" CACHE PATH "Where ONNX Runtime is, if not where the system has it")

set(gantk_suffixes include include/onnxruntime include/onnxruntime/core/session usr/include/onnxruntime)
find_path(ONNXRUNTIME_INCLUDE_DIR onnxruntime_cxx_api.h
  HINTS ${ONNXRUNTIME_ROOT}
  PATHS ${CMAKE_CURRENT_LIST_DIR}/../../../build/debian
  PATH_SUFFIXES ${gantk_suffixes} onnxruntime onnxruntime/core/session)

if(NOT DEFINED ONNXRUNTIME_LIBRARY)
  set(gantk_found "")
  if(ONNXRUNTIME_ROOT)
    file(GLOB gantk_found ${ONNXRUNTIME_ROOT}/libonnxruntime.so* ${ONNXRUNTIME_ROOT}/lib*/libonnxruntime.so*)
    list(SORT gantk_found)
    if(gantk_found)
      list(GET gantk_found 0 gantk_found)
    endif()
  endif()
  set(ONNXRUNTIME_LIBRARY "${gantk_found}" CACHE FILEPATH "ONNX Runtime's shared library; empty for the system's")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OnnxRuntime REQUIRED_VARS ONNXRUNTIME_INCLUDE_DIR)
if(OnnxRuntime_FOUND AND NOT TARGET OnnxRuntime::headers)
  add_library(OnnxRuntime::headers INTERFACE IMPORTED)
  target_include_directories(OnnxRuntime::headers SYSTEM INTERFACE ${ONNXRUNTIME_INCLUDE_DIR})
  target_compile_definitions(OnnxRuntime::headers INTERFACE ORT_API_MANUAL_INIT)
endif()

# SPDX-License-Identifier: Apache-2.0
# What all programs include is compiled once, which takes longer than the programs do. Included at the very end.
file(WRITE "${PROJECT_BINARY_DIR}/headers.cpp" "")
add_library(gantk_headers OBJECT "${PROJECT_BINARY_DIR}/headers.cpp")
target_include_directories(gantk_headers PRIVATE include "${PROJECT_BINARY_DIR}/include")
target_link_libraries(gantk_headers PRIVATE gantk_compile_options nlohmann_json::nlohmann_json)
target_precompile_headers(gantk_headers PRIVATE
  <algorithm> <chrono> <fstream> <iostream> <thread> <nlohmann/json.hpp> <gantk/runner.hpp>)
foreach(program gantk_npy_objects gantk-run gantk-bench-worker gantk_soak gantk_overhead gantk_unit_tests
    gantk_stylize gantk_generate gantk_camera gantk_gatys gantk_fuzz_manifest gantk_fuzz_npy gantk_fuzz_probe)
  if(TARGET ${program})
    target_precompile_headers(${program} REUSE_FROM gantk_headers)
  endif()
endforeach()

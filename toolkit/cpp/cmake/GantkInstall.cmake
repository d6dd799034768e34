# SPDX-License-Identifier: Apache-2.0
# `cmake --install`: the library, its headers, a CMake package and a pkg-config file.
include(CMakePackageConfigHelpers)

# An application may bring ONNX Runtime, beside it.
set_target_properties(gantk PROPERTIES INSTALL_RPATH "$ORIGIN")
install(TARGETS gantk EXPORT gantkTargets)
install(DIRECTORY include/gantk TYPE INCLUDE)
install(FILES ${PROJECT_BINARY_DIR}/include/gantk/version.hpp DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/gantk)
foreach(tool gantk-run gantk-bench-worker)
  if(TARGET ${tool})
    # It finds the library beside it, wherever both are put.
    set_target_properties(${tool} PROPERTIES INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
    install(TARGETS ${tool})
  endif()
endforeach()
foreach(product IN LISTS GANTK_TENSORRT_TARGETS)
  install(TARGETS ${product} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endforeach()
if(TARGET gantk_pictures)
  set_target_properties(gantk_pictures PROPERTIES INSTALL_RPATH "$ORIGIN")
  install(TARGETS gantk_pictures EXPORT gantkTargets)
endif()

set(gantk_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/gantk)
install(EXPORT gantkTargets NAMESPACE gantk:: DESTINATION ${gantk_package_dir})
configure_package_config_file(cmake/gantkConfig.cmake.in gantkConfig.cmake INSTALL_DESTINATION ${gantk_package_dir})
# While the version begins with 0, a new second part may break what was compiled with the old one.
write_basic_package_version_file(gantkConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/gantkConfig.cmake ${PROJECT_BINARY_DIR}/gantkConfigVersion.cmake
  DESTINATION ${gantk_package_dir})

# The prefix is told from where the file lies, for it may be chosen when it is installed.
file(RELATIVE_PATH gantk_prefix /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(cmake/gantk.pc.in gantk.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/gantk.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

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
    # It finds the library from where it lies, wherever both are put.
    file(RELATIVE_PATH gantk_libraries ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR})
    set_target_properties(${tool} PROPERTIES INSTALL_RPATH "$ORIGIN/${gantk_libraries}")
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

get_target_property(gantk_kind gantk TYPE)
set(gantk_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/gantk)
install(EXPORT gantkTargets NAMESPACE gantk:: DESTINATION ${gantk_package_dir})
configure_package_config_file(cmake/gantkConfig.cmake.in gantkConfig.cmake INSTALL_DESTINATION ${gantk_package_dir})
write_basic_package_version_file(gantkConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/gantkConfig.cmake ${PROJECT_BINARY_DIR}/gantkConfigVersion.cmake
  DESTINATION ${gantk_package_dir})

# Places are told from where the file lies, for the prefix may be chosen when it is installed.
set(gantk_pc_dir ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig)
file(RELATIVE_PATH gantk_prefix ${gantk_pc_dir} ${CMAKE_INSTALL_PREFIX})
file(RELATIVE_PATH gantk_headers_dir ${gantk_pc_dir} ${CMAKE_INSTALL_FULL_INCLUDEDIR})
configure_file(cmake/gantk.pc.in gantk.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/gantk.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

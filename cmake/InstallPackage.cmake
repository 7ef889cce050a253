# What `cmake --install` gives to C++ programs: headers, the static library, and a package for find_package(rmsprop).
#
# All of it is the component rmsprop_development, so that it can be installed without the extension module and the
# module without it. A project that has this one as a part (add_subdirectory, FetchContent) links rmsprop::rmsprop
# from its own build and installs it only if it sets RMSPROP_INSTALL.

include(CMakePackageConfigHelpers)
set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/rmsprop)
set(package_build_folder ${PROJECT_BINARY_DIR}/package)

install(TARGETS rmsprop EXPORT rmsprop-targets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT rmsprop_development)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/cpp/include/rmsprop DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        COMPONENT rmsprop_development FILES_MATCHING PATTERN "*.hpp")
install(EXPORT rmsprop-targets NAMESPACE rmsprop:: DESTINATION ${package_folder} COMPONENT rmsprop_development)

# Before 1.0 a new minor version may change the API.
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/rmsprop-config.cmake.in
                              ${package_build_folder}/rmsprop-config.cmake INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(${package_build_folder}/rmsprop-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${package_build_folder}/rmsprop-config.cmake ${package_build_folder}/rmsprop-config-version.cmake
        DESTINATION ${package_folder} COMPONENT rmsprop_development)

# What `cmake --install` and the wheel give: header, library, pkg-config file and CMake package, one relocatable tree.
# In a wheel the tree's root is the Python package, and the library has one file name: a wheel holds no symbolic links.

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

file(STRINGS ${PROJECT_SOURCE_DIR}/csrc/pyllama_mtp.h abi_version REGEX "PMTP_ABI_VERSION = [0-9]+")
string(REGEX REPLACE "[^0-9]" "" abi_version "${abi_version}")

if(SKBUILD)
    set(root pyllama_mtp/)
    set(CMAKE_INSTALL_INCLUDEDIR include)
    set(CMAKE_INSTALL_LIBDIR lib)
    install(FILES ${PROJECT_BINARY_DIR}/_build_info.json DESTINATION pyllama_mtp COMPONENT pyllama_mtp)
else()
    set(root "")
    set_target_properties(pyllama_mtp PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${abi_version})
    install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT pyllama_mtp)
    install(DIRECTORY licenses DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT pyllama_mtp)
endif()
set(include_dir ${root}${CMAKE_INSTALL_INCLUDEDIR})
set(lib_dir ${root}${CMAKE_INSTALL_LIBDIR})
set(package_dir ${lib_dir}/cmake/pyllama_mtp)

write_basic_package_version_file(pyllama_mtpConfigVersion.cmake COMPATIBILITY SameMinorVersion)
file(RELATIVE_PATH prefix_from_pc /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" prefix_from_pc "${prefix_from_pc}")
configure_file(cmake/pyllama_mtp.pc.in pyllama_mtp.pc @ONLY)

install(FILES csrc/pyllama_mtp.h DESTINATION ${include_dir} COMPONENT pyllama_mtp)
install(TARGETS pyllama_mtp EXPORT pyllama_mtp COMPONENT pyllama_mtp
    LIBRARY DESTINATION ${lib_dir} INCLUDES DESTINATION ${include_dir})
install(EXPORT pyllama_mtp NAMESPACE pyllama_mtp:: FILE pyllama_mtpConfig.cmake
    DESTINATION ${package_dir} COMPONENT pyllama_mtp)
install(FILES ${PROJECT_BINARY_DIR}/pyllama_mtpConfigVersion.cmake DESTINATION ${package_dir} COMPONENT pyllama_mtp)
install(FILES ${PROJECT_BINARY_DIR}/pyllama_mtp.pc DESTINATION ${lib_dir}/pkgconfig COMPONENT pyllama_mtp)

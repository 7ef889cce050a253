# RMSPROP_SHIP_OPENMP puts a copy of GCC's OpenMP runtime beside the extension module, for wheels.
#
# A wheel has to import where no libgomp is installed, and a process that also has PyTorch should have one OpenMP
# runtime, not two that compete for the CPUs. PyTorch brings its copy under the name it has everywhere, libgomp.so.1, and
# a loader takes no second library of a name that it has loaded. So ours keeps that name too: whichever comes first
# serves both. `auditwheel repair` would give it a name of its own, and is told not to (--exclude libgomp.so.1).
# The licence of the copy is licenses/libgomp.txt.

option(RMSPROP_SHIP_OPENMP "Install a copy of libgomp.so.1 beside the Python extension module" OFF)

function(rmsprop_ship_openmp target)
  if(NOT RMSPROP_SHIP_OPENMP)
    return()
  endif()
  if(NOT "gomp" IN_LIST OpenMP_CXX_LIB_NAMES)
    message(FATAL_ERROR "RMSPROP_SHIP_OPENMP: the OpenMP runtime of this compiler is '${OpenMP_CXX_LIB_NAMES}', "
                        "wanted gomp, which is GCC's on Linux")
  endif()
  execute_process(COMMAND ${CMAKE_CXX_COMPILER} -print-file-name=libgomp.so.1
                  OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE)
  get_filename_component(runtime "${found}" REALPATH)  # without the directories ".." and symbolic links
  if(NOT IS_ABSOLUTE "${found}" OR NOT EXISTS "${runtime}")
    message(FATAL_ERROR "RMSPROP_SHIP_OPENMP: ${CMAKE_CXX_COMPILER} finds no libgomp.so.1")
  endif()
  install(FILES ${runtime} DESTINATION rmsprop RENAME libgomp.so.1 COMPONENT python)
  # As a RUNPATH, which LD_LIBRARY_PATH goes before: who wants another runtime can have it.
  set_target_properties(${target} PROPERTIES INSTALL_RPATH "$ORIGIN")
  target_link_options(${target} PRIVATE LINKER:--enable-new-dtags)
endfunction()

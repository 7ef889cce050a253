# RMSPROP_SHIP_OPENMP puts a copy of GCC's OpenMP runtime beside the extension module, for wheels.
#
# A wheel has to import where no libgomp is installed, and a process that also has PyTorch should have one OpenMP
# runtime, not two that compete for the CPUs. PyTorch ships its copy under the usual name, libgomp.so.1, and a
# loader loads no second library of a name that it has loaded. So ours keeps that name too: the first one serves both.
# `auditwheel repair` would rename it, which --exclude libgomp.so.1 prevents.
# The texts of its licence must go with it (licenses/libgomp.txt says why), and are those that the system has.

option(RMSPROP_SHIP_OPENMP "Install a copy of libgomp.so.1 beside the Python extension module" OFF)
set(RMSPROP_LIBGOMP_LICENCE "" CACHE STRING
    "Files with the GNU General Public License 3 and the GCC Runtime Library Exception (empty: those of the system)")

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
  _gather_licence(${PROJECT_BINARY_DIR}/libgomp-licence.txt)
  install(FILES ${PROJECT_BINARY_DIR}/libgomp-licence.txt DESTINATION rmsprop COMPONENT python)
  # As a RUNPATH, so that LD_LIBRARY_PATH takes precedence and can select another runtime.
  set_target_properties(${target} PROPERTIES INSTALL_RPATH "$ORIGIN")
  target_link_options(${target} PRIVATE LINKER:--enable-new-dtags)
endfunction()

# Writes both texts into one file.
function(_gather_licence file)
  set(sources ${RMSPROP_LIBGOMP_LICENCE})
  if(NOT sources)
    set(fedora /usr/share/licenses/libgcc/COPYING3 /usr/share/licenses/libgcc/COPYING.RUNTIME)
    set(debian /usr/share/common-licenses/GPL-3 /usr/share/doc/libgomp1/copyright)
    foreach(system fedora debian)
      list(GET ${system} 0 licence)
      list(GET ${system} 1 exception)
      if(NOT sources AND EXISTS ${licence} AND EXISTS ${exception})
        set(sources ${${system}})
      endif()
    endforeach()
  endif()
  set(texts "")
  foreach(source ${sources})
    file(READ ${source} text)
    string(APPEND texts "${text}\n")
  endforeach()
  foreach(title "GNU GENERAL PUBLIC LICENSE" "GCC RUNTIME LIBRARY EXCEPTION")
    string(FIND "${texts}" "${title}" place)
    if(place EQUAL -1)
      message(FATAL_ERROR "RMSPROP_SHIP_OPENMP: found no '${title}' in '${sources}'; "
                          "name files that have it in RMSPROP_LIBGOMP_LICENCE")
    endif()
  endforeach()
  file(WRITE ${file} "${texts}")
endfunction()

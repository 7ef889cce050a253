# The flags of the kernels, all in this file.
#
# add_kernels(target) compiles cpp/src/kernels.cpp into `target` once per instruction set. The flags are set on the
# kernels themselves, so that no CMAKE_BUILD_TYPE and no CXXFLAGS of a user can change the bits of a step. To those of
# CommonOptions.cmake come:
#   -O3 -fno-math-errno -fno-trapping-math   without these GCC leaves square roots and comparisons scalar; neither
#                                            changes a result, they only drop side effects (errno, traps)
#   -fno-exceptions                          kernels throw nothing, and then the object needs no personality routine,
#                                            which would be a weak symbol
# MSVC vectorises at /O2, which cannot be had together with the checks of a Debug build.

include(CheckCXXSourceCompiles)

# Whether all that is compiled is for x86-64. CMAKE_SYSTEM_PROCESSOR does not tell: CMAKE_OSX_ARCHITECTURES may name
# other processors, or several, and Visual Studio compiles for other ones than it runs on.
check_cxx_source_compiles("
  #if !defined(__x86_64__) && !defined(_M_X64) || defined(_M_ARM64EC)
  #error
  #endif
  int main() {}" RMSPROP_IS_X86_64)

rmsprop_choose_flags(RMSPROP_KERNEL_FLAGS "-O3;-fno-math-errno;-fno-trapping-math;-fno-exceptions"
                     "$<$<NOT:$<CONFIG:Debug>>:/O2>")

function(add_kernels target)
  _add_kernel_copy(${target} baseline "" "")
  if(NOT RMSPROP_IS_X86_64 OR NOT CMAKE_SIZEOF_VOID_P EQUAL 8)
    return()
  endif()
  _add_kernel_copy(${target} x86_64_v3 -march=x86-64-v3 /arch:AVX2)
  _add_kernel_copy(${target} x86_64_v4 -march=x86-64-v4 /arch:AVX512)
  target_compile_definitions(${target} PRIVATE RMSPROP_X86_64_LEVELS)
endfunction()

function(_add_kernel_copy target name gnu_flag msvc_flag)
  set(copy ${target}_kernels_${name})
  add_library(${copy} OBJECT ${PROJECT_SOURCE_DIR}/cpp/src/kernels.cpp)
  rmsprop_common_options(${copy})
  target_include_directories(${copy} PRIVATE ${PROJECT_SOURCE_DIR}/cpp/src)
  target_compile_definitions(${copy} PRIVATE RMSPROP_KERNELS=kernels_${name})
  rmsprop_choose_flags(level_flag "${gnu_flag}" "${msvc_flag}")
  target_compile_options(${copy} PRIVATE ${RMSPROP_KERNEL_FLAGS} ${level_flag})
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:${copy}>)
endfunction()

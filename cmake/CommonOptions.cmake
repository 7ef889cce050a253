# Compiler flags of every C++ target of this project.
#
# The arithmetic is set here for all of them, not only for the kernels: the coefficients of a step are computed outside.
#   -ffp-contract=off   a fused multiply-add rounds once where the specification rounds twice; where the baseline has
#                       such an instruction, as on aarch64, GCC contracts by default
#   -fno-fast-math      undoes a fast-math flag that came in through CXXFLAGS
#   /fp:precise         is both for MSVC, since 19.30 (Visual Studio 2022): the versions before it contract

include(Sanitizers)

if(CMAKE_CXX_COMPILER_ID STREQUAL "MSVC" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 19.30)
  message(FATAL_ERROR "rmsprop: this is MSVC ${CMAKE_CXX_COMPILER_VERSION}, wanted 19.30 (Visual Studio 2022) or later: "
                      "earlier ones fuse multiplications with additions, which changes the bits of a step")
endif()

# Sets `variable` to the flags that this compiler takes: those of GCC and Clang, or those of MSVC. clang-cl looks like
# MSVC and takes the flags of Clang behind a prefix.
function(rmsprop_choose_flags variable gnu_flags msvc_flags)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "MSVC")
    set(flags ${msvc_flags})
  else()
    set(flags ${gnu_flags})
    if(MSVC)
      list(TRANSFORM flags PREPEND /clang:)
    endif()
  endif()
  set(${variable} "${flags}" PARENT_SCOPE)
endfunction()

rmsprop_choose_flags(RMSPROP_ARITHMETIC_FLAGS "-fno-fast-math;-ffp-contract=off" /fp:precise)

function(rmsprop_common_options target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/cpp/include>
                                              $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF CXX_VISIBILITY_PRESET hidden
                                             VISIBILITY_INLINES_HIDDEN ON POSITION_INDEPENDENT_CODE ON)
  target_compile_options(${target} PRIVATE ${RMSPROP_ARITHMETIC_FLAGS})
  rmsprop_sanitize(${target})
  if(MSVC)
    target_compile_options(${target} PRIVATE /W4 $<$<BOOL:${RMSPROP_WARNINGS_AS_ERRORS}>:/WX>)
  else()
    target_compile_options(${target} PRIVATE -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion
                                             $<$<BOOL:${RMSPROP_WARNINGS_AS_ERRORS}>:-Werror>)
  endif()
endfunction()

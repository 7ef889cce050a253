# What every C++ target of this project is compiled with.
#
# The arithmetic is set here for all of them, not only for the kernels: the coefficients of a step are computed outside.
#   -ffp-contract=off   a fused multiply-add rounds once where the specification rounds twice; where the baseline has
#                       such an instruction, as on aarch64, GCC contracts unless told otherwise
#   -fno-fast-math      undoes a fast-math flag that came in through CXXFLAGS

include(Sanitizers)

set(RMSPROP_ARITHMETIC_FLAGS $<IF:$<CXX_COMPILER_ID:MSVC>,/fp:precise,-fno-fast-math;-ffp-contract=off>)

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

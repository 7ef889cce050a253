# Builds with sanitizers of memory, arithmetic or threads: RMSPROP_SANITIZE is the value of -fsanitize=, such as
# "address,undefined" or "thread". ci/sanitizers runs them.

set(RMSPROP_SANITIZE "" CACHE STRING "What -fsanitize= takes: address,undefined or thread")

function(rmsprop_sanitize target)
  if(RMSPROP_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${RMSPROP_SANITIZE} -fno-sanitize-recover=all
                                             -fno-omit-frame-pointer -g)
    target_link_options(${target} PUBLIC -fsanitize=${RMSPROP_SANITIZE})
  endif()
endfunction()

# Builds in which the compiler watches over memory, arithmetic or threads: RMSPROP_SANITIZE is what -fsanitize= takes,
# such as "address,undefined" or "thread". How they are run, and what they need to know, is in ci/sanitizers.

set(RMSPROP_SANITIZE "" CACHE STRING "What -fsanitize= takes: address,undefined or thread")

function(rmsprop_sanitize target)
  if(RMSPROP_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${RMSPROP_SANITIZE} -fno-sanitize-recover=all
                                             -fno-omit-frame-pointer -g)
    target_link_options(${target} PUBLIC -fsanitize=${RMSPROP_SANITIZE})
  endif()
endfunction()

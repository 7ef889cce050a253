#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include "rmsprop/runtime.hpp"

int main(int argc, char** argv) {
  rmsprop::set_thread_use_from_environment();
  return doctest::Context(argc, argv).run();
}

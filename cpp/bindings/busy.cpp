#include "busy.hpp"

#include <stdexcept>
#include <string_view>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace rmsprop::bindings {
namespace {

// Of this process: 1, and one more in each child.
std::atomic<unsigned> generation = 1;

#if defined(__unix__) || defined(__APPLE__)
[[maybe_unused]] const int fork_handler = pthread_atfork(nullptr, nullptr, [] { ++generation; });
#endif

}  // namespace

void Busy::begin(const char* what) {
  const unsigned self = generation.load(std::memory_order_relaxed);
  unsigned owner = owner_.load(std::memory_order_relaxed);
  do {
    if (owner == self) {
      const char* found = what_.load(std::memory_order_relaxed);
      const std::string other = std::string_view(found) == "step" ? "another step" : found;
      throw std::runtime_error(std::string(what) + ": this optimizer is in the middle of " + other +
                               ", of another thread or of the caller itself");
    }
  } while (!owner_.compare_exchange_weak(owner, self, std::memory_order_acquire));
  what_.store(what, std::memory_order_relaxed);
}

}  // namespace rmsprop::bindings

#include "busy.hpp"

#include <stdexcept>
#include <string>
#include <string_view>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace rmsprop::bindings {
namespace {

// The generation of this process: 1, and one more in each child.
std::atomic<std::uint32_t> generation = 1;

// Each thread has a number of its own, which no later one gets, and keeps it where it goes on in a child.
std::uint32_t number_of_this_thread() {
  static std::atomic<std::uint32_t> last = 0;
  thread_local const std::uint32_t number = ++last;
  return number;
}

// The one that forked, of all threads of the parent process.
std::atomic<std::uint32_t> survivor = 0;

#if defined(__unix__) || defined(__APPLE__)
// NOLINTNEXTLINE(bugprone-throwing-static-initialization): a function of C throws nothing
[[maybe_unused]] const int fork_handler = pthread_atfork(nullptr, nullptr, [] {
  ++generation;
  survivor = number_of_this_thread();
});
#endif

}  // namespace

void Busy::begin(const char* what) {
  const std::uint64_t process = generation.load(std::memory_order_relaxed);
  const std::uint64_t self = process << 32 | number_of_this_thread();
  std::uint64_t owner = owner_.load(std::memory_order_relaxed);
  do {
    const bool is_alive = owner >> 32 == process || static_cast<std::uint32_t>(owner) == survivor.load();
    if (owner != nobody && is_alive) {
      const char* found = what_.load(std::memory_order_relaxed);
      const std::string other = std::string_view(found) == "step" ? "another step" : found;
      throw std::runtime_error(std::string(what) + ": this optimizer is in the middle of " + other +
                               ", of another thread or of the caller itself");
    }
  } while (!owner_.compare_exchange_weak(owner, self, std::memory_order_acquire));
  what_.store(what, std::memory_order_relaxed);
}

}  // namespace rmsprop::bindings

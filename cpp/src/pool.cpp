#include "pool.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <sys/stat.h>
#define RMSPROP_HAS_PTHREADS
#endif

namespace rmsprop {
namespace {

// The stack size of OpenMP's threads that the environment sets, in bytes; 0 if it does not.
std::size_t wanted_stack_size() noexcept {
  std::size_t largest = 0;
  for (const char* name : {"OMP_STACKSIZE", "GOMP_STACKSIZE", "KMP_STACKSIZE"}) {
    const char* text = std::getenv(name);
    if (text == nullptr || std::strchr(text, '-') != nullptr) continue;
    char* unit = nullptr;
    std::size_t size = std::strtoull(text, &unit, 10);
    while (*unit == ' ') ++unit;
    const char* const units = "bkmg";
    const char* found = *unit == '\0' ? units + 1 : std::strchr(units, *unit | 0x20);  // kilobytes by default
    for (const char* u = units; found != nullptr && u < found; ++u) size *= 1024;
    largest = std::max(largest, size);
  }
  return largest;
}

const std::size_t stack_size = wanted_stack_size();  // at the start of the process, as the runtime reads it

// The threads of this process, plus a constant; 0 if that is unknown.
std::size_t threads_of_process() noexcept {
#if defined(__linux__)
  struct stat status = {};
  return stat("/proc/self/task", &status) == 0 ? static_cast<std::size_t>(status.st_nlink) : 0;
#else
  return 0;
#endif
}

}  // namespace

// Starts and ends as many threads here, where a refusal does no harm, with the memory that the runtime takes for them.
bool can_start_threads(int count) noexcept {
  const std::size_t before = threads_of_process();
  std::mutex all_are_started;
  std::vector<std::thread> threads;
  bool granted = true;
  try {
    constexpr std::size_t bookkeeping = 64 << 10;
    constexpr std::size_t bookkeeping_of_a_thread = 4 << 10;
    std::vector<std::unique_ptr<std::byte[]>> memory;
    const std::lock_guard lock(all_are_started);  // they wait, so that all exist at the same time
    const auto size = static_cast<std::size_t>(count);
    memory.reserve(size + 1);
    memory.emplace_back(new std::byte[bookkeeping + size * bookkeeping_of_a_thread]);
    threads.reserve(size);
    for (int i = 0; i < count; ++i) {
      threads.emplace_back([&] { const std::lock_guard wait(all_are_started); });
      if (stack_size > 0) memory.emplace_back(new std::byte[stack_size]);
    }
  } catch (const std::exception&) {
    granted = false;
  }
  for (std::thread& thread : threads) thread.join();
  // The system still counts a thread for a moment after its end, and could refuse the next one.
  for (int i = 0; i < 100 && threads_of_process() > before; ++i) {
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  return granted;
}

#if defined(RMSPROP_HAS_PTHREADS)

// Not thread_local, which ends the process if there is no memory for it, and cannot be used after its destruction.
struct Pool::Keys {
  pthread_key_t own = 0, of_caller = 0;
  bool are_there = pthread_key_create(&own, release) == 0 && pthread_key_create(&of_caller, end_worker) == 0;
};

const Pool::Keys& Pool::keys() noexcept {
  static const Keys keys;
  return keys;
}

Pool* Pool::of_calling_thread() noexcept {
  if (!keys().are_there) return nullptr;
  if (void* pool = pthread_getspecific(keys().own)) return static_cast<Pool*>(pool);
  std::unique_ptr<Pool> pool(new (std::nothrow) Pool);
  if (pool == nullptr || pthread_setspecific(keys().own, pool.get()) != 0) return nullptr;
  return pool.release();
}

void Pool::count_calling_thread() noexcept {
  void* before = pthread_getspecific(keys().of_caller);
  if (before == this || pthread_setspecific(keys().of_caller, this) != 0) return;
  ++references_;
  ++workers_;
  if (before != nullptr) end_worker(before);
}

void Pool::end_worker(void* pool) noexcept {
  --static_cast<Pool*>(pool)->workers_;
  release(pool);
}

void Pool::release(void* pool) noexcept {
  if (--static_cast<Pool*>(pool)->references_ == 0) delete static_cast<Pool*>(pool);
}

#else  // ended threads are not detected

Pool* Pool::of_calling_thread() noexcept {
  thread_local Pool pool;
  pool.workers_ = pool.team_ - 1;
  return &pool;
}

void Pool::count_calling_thread() noexcept {}

#endif

Pool::Team Pool::team_for(int wanted) noexcept {
  // The runtime ends the threads that a smaller region does not need, whether it is the engine's or the host's.
  int there = std::min(team_, workers_ + 1);
  if (wanted != there && !can_start_threads(std::max(0, wanted - there))) {
    there = std::min(there, workers_ + 1);
    wanted = std::min(wanted, there);
  }
  team_ = wanted;
  return {there, wanted};
}

}  // namespace rmsprop

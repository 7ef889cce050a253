// The only file with OpenMP.

#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "floating_point_scope.hpp"
#include "rmsprop/runtime.hpp"

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace rmsprop {
namespace {

// What was set, or 0.
std::atomic<int> chosen_num_threads{0};

// Asked anew each time: whoever limits the threads of OpenMP later, as threadpoolctl and PyTorch do, limits these too.
int openmp_num_threads() noexcept {
#if defined(_OPENMP)
  return omp_get_max_threads();  // OMP_NUM_THREADS, or a CPU each, or what the calling thread has set since
#else
  return 1;
#endif
}

int default_num_threads() noexcept {
  static const int cpus = [] {
    const FloatingPointScope scope;
    openmp_num_threads();  // LLVM's runtime calculates when it is called for the first time
    return std::min(available_cpus(), max_num_threads);
  }();
  return std::clamp(openmp_num_threads(), 1, cpus);
}

// After a fork the child has only the thread that called it. The OpenMP runtime does not know, and would wait for its
// other threads for ever.
std::atomic<bool> is_forked_child{false};

#if defined(__unix__) || defined(__APPLE__)
[[maybe_unused]] const int fork_handler = pthread_atfork(nullptr, nullptr, [] { is_forked_child = true; });
#endif

#if defined(_OPENMP)

// The OpenMP runtime ends the process if the system refuses it a thread. So whenever the calling thread wants more of
// them than ever before, as many are started and ended here first, where a refusal only means fewer shares at a time.
bool can_start_threads(int count) noexcept {
  thread_local int started = 0;
  if (count <= started) return true;
  std::vector<std::thread> threads;
  std::mutex all_are_started;
  bool granted = true;
  try {
    const std::lock_guard lock(all_are_started);  // they wait here, so that they exist at the same time
    threads.reserve(static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i) threads.emplace_back([&] { const std::lock_guard wait(all_are_started); });
  } catch (const std::exception&) {
    granted = false;
  }
  for (std::thread& thread : threads) thread.join();
  if (granted) started = count;
  return granted;
}

// A function of its own, and never a part of its caller: Clang calls the runtime at the beginning of the function that
// has the region, and LLVM's runtime calculates when it is called for the first time. By then the caller has the
// default environment, or a host would find its exception flags raised, or trap.
#if defined(__GNUC__) || defined(__clang__)
[[gnu::noinline]]
#endif
void run_in_parallel(int shares, void (*body)(const void* context, int share), const void* context) noexcept {
#pragma omp parallel num_threads(shares)
  {
    const FloatingPointScope scope;
    // The runtime may give fewer threads than asked for: each takes every so many-th share.
    for (int share = omp_get_thread_num(); share < shares; share += omp_get_num_threads()) body(context, share);
  }
}

#endif

}  // namespace

int get_num_threads() noexcept {
  if (is_forked_child) return 1;
  const int chosen = chosen_num_threads.load(std::memory_order_relaxed);
  return chosen != 0 ? chosen : default_num_threads();
}

void set_num_threads(int n) {
  if (n < 1 || n > max_num_threads) {
    throw std::invalid_argument("num_threads: got " + std::to_string(n) + ", wanted a number from 1 to " +
                                std::to_string(max_num_threads));
  }
  chosen_num_threads = n;
}

int openmp_version() noexcept {
#if defined(_OPENMP)
  return _OPENMP;
#else
  return 0;
#endif
}

void run_shares(int shares, void (*body)(const void* context, int share), const void* context) noexcept {
  const FloatingPointScope scope;
#if defined(_OPENMP)
  if (shares > 1 && !is_forked_child && can_start_threads(shares - 1)) {
    run_in_parallel(shares, body, context);
    return;
  }
#endif
  for (int share = 0; share < shares; ++share) body(context, share);
}

}  // namespace rmsprop

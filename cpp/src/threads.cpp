// The only file with OpenMP.

#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>

#include "floating_point_scope.hpp"
#include "pool.hpp"
#include "rmsprop/runtime.hpp"

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace rmsprop {
namespace {

// The number that was set, or 0.
std::atomic<int> chosen_num_threads{0};

// Read each time, so that later limits on OpenMP's threads, such as those of threadpoolctl and PyTorch, apply.
int openmp_num_threads() noexcept {
#if defined(_OPENMP)
  return omp_get_max_threads();  // OMP_NUM_THREADS, or one per CPU, or what the calling thread has set since
#else
  return 1;
#endif
}

// The number of available CPUs, or 0 until it is needed. Not a static of a function: a child that is forked while
// another thread initialises one would wait for that thread.
std::atomic<int> cpus{0};

int default_num_threads() noexcept {
  if (cpus.load(std::memory_order_relaxed) == 0) {
    const FloatingPointScope scope;
    openmp_num_threads();  // LLVM's runtime calculates when it is called for the first time
    cpus = std::min(available_cpus(), max_num_threads);
  }
  return std::clamp(openmp_num_threads(), 1, cpus.load(std::memory_order_relaxed));
}

// After a fork the child has only the calling thread. The OpenMP runtime does not account for that, and would wait for
// its other threads forever.
std::atomic<bool> is_forked_child{false};

#if defined(__unix__) || defined(__APPLE__)
[[maybe_unused]] const int fork_handler = pthread_atfork(nullptr, nullptr, [] { is_forked_child = true; });
#endif

#if defined(_OPENMP)

// A separate function, never inlined: Clang calls the runtime at the beginning of the function that
// has the region, and LLVM's runtime calculates when it is called for the first time. By then the caller has
// set the default environment; otherwise exception flags of the host would be raised, or trap.
#if defined(__GNUC__) || defined(__clang__)
[[gnu::noinline]]
#endif
void run_in_parallel(int team, Pool* pool, int shares, void (*body)(const void* context, int share),
                     const void* context) noexcept {
#pragma omp parallel num_threads(team)
  {
    const FloatingPointScope scope;
    if (pool != nullptr && omp_get_thread_num() > 0) pool->count_calling_thread();
    // The runtime may grant fewer threads, say n: each takes every n-th share.
    for (int share = omp_get_thread_num(); share < shares; share += omp_get_num_threads()) body(context, share);
  }
}

// Whether a parallel region would have one thread, as is usual within a region of the host.
bool regions_are_serial() noexcept {
#if _OPENMP >= 200805
  return omp_in_parallel() && omp_get_active_level() >= omp_get_max_active_levels();
#else
  return omp_in_parallel();
#endif
}

// False if the calling thread has to run all shares itself.
bool start_shares(int shares, void (*body)(const void* context, int share), const void* context) noexcept {
  if (regions_are_serial()) return false;
  if (omp_in_parallel()) {  // the runtime does not keep the threads of a nested region
    if (!can_start_threads(shares - 1)) return false;
    run_in_parallel(shares, nullptr, shares, body, context);
    return true;
  }
  Pool* const pool = Pool::of_calling_thread();
  if (pool == nullptr) return false;
  const auto [there, granted] = pool->team_for(shares);
  // A few at a time: for each thread that it starts, the runtime takes a hundred bytes of this thread's stack.
  constexpr int few = 32;
  for (int team = there + few; team < granted; team += few) run_in_parallel(team, pool, 0, body, context);
  if (granted > 1) run_in_parallel(granted, pool, shares, body, context);
  return granted > 1;
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
  if (shares > 1 && !is_forked_child && start_shares(shares, body, context)) return;
#endif
  for (int share = 0; share < shares; ++share) body(context, share);
}

}  // namespace rmsprop

// The only file with OpenMP.

#include "threads.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include "floating_point_scope.hpp"
#include "pool.hpp"
#include "rmsprop/runtime.hpp"
#include "thread_policy.hpp"

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

std::atomic<ThreadUse> chosen_thread_use{ThreadUse::adaptive};

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

using Clock = std::chrono::steady_clock;

ThreadPolicy::Nanoseconds nanoseconds(Clock::duration duration) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count();
}

// Who has done how much of a region's work.
class Region {
 public:
  Region(const SharedWork& work, Clock::time_point begin)
      : work_(work), begin_(begin), spacing_(std::min(counts_of_a_cache_line, max_num_threads / work.shares)) {}

  // Takes part in the work, as thread 0 (the calling one) or another.
  void take_part(int thread) noexcept {
    arrived_.fetch_add(1, std::memory_order_relaxed);
    if (thread != 0) {
      run_what_is_left(thread);
      return;
    }
    own_pieces_ = run_what_is_left(thread);
    own_ = Clock::now() - begin_;
    arrived_in_time_ = arrived_.load(std::memory_order_relaxed);
  }

  // As the calling thread has seen it.
  ThreadPolicy::Region seen(int threads, Clock::duration whole) const {
    const double all = static_cast<double>(work_.shares) * work_.pieces_of_a_share;
    return {threads, arrived_in_time_, own_pieces_ / all, nanoseconds(own_), nanoseconds(whole)};
  }

 private:
  // Runs the pieces of its own share, then those of others, and returns how many.
  int run_what_is_left(int thread) noexcept {
    int done = 0;
    for (int i = 0; i < work_.shares; ++i) {
      const int share = (thread + i) % work_.shares;
      std::atomic<std::uint16_t>& next = next_pieces_[static_cast<std::size_t>(share * spacing_)];
      while (next.load(std::memory_order_relaxed) < work_.pieces_of_a_share) {
        const int piece = next.fetch_add(1, std::memory_order_relaxed);
        if (piece >= work_.pieces_of_a_share) break;
        work_.run_piece(work_.context, share * work_.pieces_of_a_share + piece);
        ++done;
      }
    }
    return done;
  }

  // Threads that take pieces of different shares disturb each other if their counts share a cache line.
  static constexpr int counts_of_a_cache_line = cache_line / sizeof(std::atomic<std::uint16_t>);

  const SharedWork& work_;
  Clock::time_point begin_;
  int spacing_;
  std::array<std::atomic<std::uint16_t>, max_num_threads> next_pieces_ = {};  // of each share, so far apart
  std::atomic<int> arrived_{0};
  int arrived_in_time_ = 0;
  int own_pieces_ = 0;
  Clock::duration own_ = {};
};

// A separate function, never inlined: Clang calls the runtime at the beginning of the function that
// has the region, and LLVM's runtime calculates when it is called for the first time. By then the caller has
// set the default environment; otherwise exception flags of the host would be raised, or trap.
template <class Run>
#if defined(__GNUC__) || defined(__clang__)
[[gnu::noinline]]
#endif
void run_in_parallel(int team, Pool* pool, const Run& run) noexcept {
#pragma omp parallel num_threads(team)
  {
    const FloatingPointScope scope;
    if (pool != nullptr && omp_get_thread_num() > 0) pool->count_calling_thread();
    run(omp_get_thread_num(), omp_get_num_threads());
  }
}

void run_nothing(int /*thread*/, int /*threads*/) noexcept {}

// The runtime may grant fewer threads than there are shares, say n: each takes every n-th.
void run_own_shares(const SharedWork& work, int thread, int threads) noexcept {
  for (int share = thread; share < work.shares; share += threads) {
    const int first = share * work.pieces_of_a_share;
    for (int piece = 0; piece < work.pieces_of_a_share; ++piece) work.run_piece(work.context, first + piece);
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

// Starts the threads of a team that are not there yet, and returns how many there are then.
int complete_team(Pool& pool, int wanted) noexcept {
  const auto [there, granted] = pool.team_for(wanted);
  // A few at a time: for each thread that it starts, the runtime takes a hundred bytes of this thread's stack.
  constexpr int few = 32;
  for (int team = there + few; team < granted; team += few) run_in_parallel(team, &pool, run_nothing);
  return granted;
}

// With the number of threads that the policy chooses, which learns from it.
bool run_adaptively(Pool& pool, const SharedWork& work) noexcept {
  const Clock::time_point before = Clock::now();
  const auto [wanted, wakes_first] = pool.policy().choose(work.shares, nanoseconds(before.time_since_epoch()));
  if (wanted == 1) return false;
  const int team = complete_team(pool, wanted);
  if (team == 1) return false;
  if (wakes_first) run_in_parallel(team, &pool, run_nothing);
  const Clock::time_point begin = wakes_first ? Clock::now() : before;
  Region region(work, begin);
  run_in_parallel(team, &pool, [&](int thread, int) { region.take_part(thread); });
  const Clock::time_point end = Clock::now();
  const Clock::duration waking = begin - before;
  pool.policy().learn(region.seen(team, end - begin), nanoseconds(waking), nanoseconds(end.time_since_epoch()));
  return true;
}

// False if the calling thread has to run everything itself.
bool start_shares(const SharedWork& work) noexcept {
  const auto own_shares = [&](int thread, int threads) { run_own_shares(work, thread, threads); };
  if (regions_are_serial()) return false;
  if (omp_in_parallel()) {  // the runtime does not keep the threads of a nested region
    if (!can_start_threads(work.shares - 1)) return false;
    run_in_parallel(work.shares, nullptr, own_shares);
    return true;
  }
  Pool* const pool = Pool::of_calling_thread();
  if (pool == nullptr) return false;
  if (thread_use() == ThreadUse::adaptive) return run_adaptively(*pool, work);
  const int team = complete_team(*pool, work.shares);
  if (team > 1) run_in_parallel(team, pool, own_shares);
  return team > 1;
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

ThreadUse thread_use() noexcept { return chosen_thread_use.load(std::memory_order_relaxed); }

void set_thread_use(ThreadUse use) noexcept { chosen_thread_use = use; }

void set_thread_use_from_environment() {
  const char* text = std::getenv("RMSPROP_THREADS");
  const std::string_view name = text == nullptr ? "" : text;
  if (name == "fixed") return set_thread_use(ThreadUse::fixed);
  if (name == "adaptive") return set_thread_use(ThreadUse::adaptive);
  if (!name.empty()) {
    throw std::invalid_argument("RMSPROP_THREADS: got '" + std::string(name) + "', wanted 'adaptive' or 'fixed'");
  }
}

int openmp_version() noexcept {
#if defined(_OPENMP)
  return _OPENMP;
#else
  return 0;
#endif
}

void run_shares(const SharedWork& work) noexcept {
  const FloatingPointScope scope;
#if defined(_OPENMP)
  if (work.shares > 1 && !is_forked_child && start_shares(work)) return;
#endif
  for (int piece = 0; piece < work.shares * work.pieces_of_a_share; ++piece) work.run_piece(work.context, piece);
}

}  // namespace rmsprop

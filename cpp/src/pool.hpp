// A count of the threads that the OpenMP runtime keeps for the calling thread.
//
// The runtime ends the process if the system refuses a thread. So the engine lets the runtime start a thread only just
// after the system has granted one to the engine, and counts those that exist.
#pragma once

#include <atomic>

#include "thread_policy.hpp"

namespace rmsprop {

// Whether the system grants this many more threads.
bool can_start_threads(int count) noexcept;

class Pool {
 public:
  struct Team {
    int there;    // existing threads, including the calling one
    int granted;  // threads that a region may use
  };

  // Null if memory is exhausted.
  static Pool* of_calling_thread() noexcept;

  // The team, of `wanted` threads at most, for the parallel region that the calling thread begins now.
  Team team_for(int wanted) noexcept;

  // Of the regions that the calling thread begins.
  ThreadPolicy& policy() noexcept { return policy_; }

  // Must be called by every thread of a region but the first.
  void count_calling_thread() noexcept;

 private:
  struct Keys;
  static const Keys& keys() noexcept;
  static void release(void* pool) noexcept;
  static void end_worker(void* pool) noexcept;

  ThreadPolicy policy_;
  int team_ = 1;                    // threads of the last region
  std::atomic<int> workers_{0};     // living threads that were in a region
  std::atomic<int> references_{1};  // from the owning thread, and from the workers
};

}  // namespace rmsprop

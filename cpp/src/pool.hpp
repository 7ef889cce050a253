// What is known of the threads that the OpenMP runtime keeps for the calling thread.
//
// The runtime ends the process if the system refuses it a thread. So the engine never lets it start one that was not
// granted a moment before: it keeps count of those that are there.
#pragma once

#include <atomic>

namespace rmsprop {

// Whether the system grants so many threads more.
bool can_start_threads(int count) noexcept;

class Pool {
 public:
  struct Team {
    int there;    // threads that are there already, with the calling one
    int granted;  // that a region may ask for
  };

  // Null if there is none, for want of memory.
  static Pool* of_calling_thread() noexcept;

  // The team, of `wanted` threads at most, for the parallel region that the calling thread begins now.
  Team team_for(int wanted) noexcept;

  // To be called by every thread of a region but the first.
  void count_calling_thread() noexcept;

 private:
  struct Keys;
  static const Keys& keys() noexcept;
  static void release(void* pool) noexcept;
  static void end_worker(void* pool) noexcept;

  int team_ = 1;                    // threads of the last region
  std::atomic<int> workers_{0};     // that are alive, of all that were in one
  std::atomic<int> references_{1};  // from the thread it is of, and from the workers
};

}  // namespace rmsprop

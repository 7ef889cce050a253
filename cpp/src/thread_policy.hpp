// Decides how many threads each parallel region gets.
//
// A region ends when all of its threads have come back, also one that the operating system has not run yet. Where other
// programs use the CPUs, the calling thread waits for such a thread for a whole time slice, which may be a hundred
// times as long as a small step. So each region is compared with what it would have been without the threads that came
// late, and where they lose, threads are left out for a while. What that may cost is bounded: see `least_price` and
// `longest_pause`.
#pragma once

#include <cstdint>

namespace rmsprop {

class ThreadPolicy {
 public:
  using Nanoseconds = std::int64_t;

  // A region as its calling thread saw it.
  struct Region {
    int threads;        // that it had, with the calling one
    int arrived;        // of these, those that had begun when the calling thread found nothing left to do
    double own_part;    // of the work that the calling thread did itself, from 0 to 1
    Nanoseconds own;    // from the beginning until the calling thread found nothing left to do
    Nanoseconds whole;  // until all threads were back
  };

  // With 1 thread the calling one does all the work, without a region.
  struct Choice {
    int threads;
    bool wakes_first;  // threads that were left out may be asleep, and the work be done before they are there
  };

  // For a region that begins now, and for which `wanted` threads are worth while.
  Choice choose(int wanted, Nanoseconds now) const;

  // What came of it. `waking`: how long it took to wake the threads before it, 0 if that was not asked for.
  void learn(const Region& region, Nanoseconds waking, Nanoseconds now);

  // A pause is so many times as long as what was lost, and twice that after each pause that is soon followed by the
  // next.
  static constexpr std::int64_t least_price = 2;

  // Full speed is back at the latest so long after the load has gone.
  static constexpr Nanoseconds longest_pause = 400'000'000;

  // Work that should take all threads longer does not wait until they are awake.
  static constexpr double long_work = 1e6;

 private:
  double balance_ = 0.0;                     // what the last regions have gained, with weights that fade
  Nanoseconds since_pause_ = longest_pause;  // time in regions
  std::int64_t price_ = least_price;
  Nanoseconds pause_ = 0;  // its length
  Nanoseconds pause_ends_ = 0;
  double alone_ = 0.0;  // what the last region would have taken the calling thread
  int limit_ = 0;       // of threads, in a pause; 0: none
};

}  // namespace rmsprop

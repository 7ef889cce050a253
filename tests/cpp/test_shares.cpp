// Work in pieces, on threads that are used as long as they help.

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <thread>

#include "rmsprop/runtime.hpp"
#include "threads.hpp"

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// Adaptive for the time being.
class Adaptive {
 public:
  Adaptive() { rmsprop::set_thread_use(rmsprop::ThreadUse::adaptive); }
  ~Adaptive() { rmsprop::set_thread_use(before_); }
  Adaptive(const Adaptive&) = delete;
  Adaptive& operator=(const Adaptive&) = delete;

 private:
  rmsprop::ThreadUse before_ = rmsprop::thread_use();
};

void compute_for(Clock::duration duration) {
  for (const Clock::time_point end = Clock::now() + duration; Clock::now() < end;) {
  }
}

// Calls run(piece) for all pieces of so many shares.
template <class Run>
void run_shares(int shares, int pieces_of_a_share, const Run& run) {
  const auto run_piece = [](const void* context, int piece) { (*static_cast<const Run*>(context))(piece); };
  rmsprop::run_shares({shares, pieces_of_a_share, run_piece, &run});
}

}  // namespace

TEST_CASE("each piece is run once, whichever thread takes it") {
  const Adaptive adaptive;
  constexpr int pieces_of_a_share = 1'000, most = 8, rounds = 1'000;  // so many that threads meet in a share
  for (const int shares : {1, 2, 3, most}) {
    CAPTURE(shares);
    std::array<std::atomic<int>, static_cast<std::size_t>(most * pieces_of_a_share)> runs = {};
    for (int round = 0; round < rounds; ++round) {
      run_shares(shares, pieces_of_a_share, [&](int piece) { ++runs[static_cast<std::size_t>(piece)]; });
    }
    const auto end = runs.begin() + shares * pieces_of_a_share;
    CHECK(std::all_of(runs.begin(), end, [](int count) { return count == rounds; }));
    CHECK(std::all_of(end, runs.end(), [](int count) { return count == 0; }));
  }
}

TEST_CASE("threads that keep the calling one waiting are soon left out") {
  const Adaptive adaptive;
  const std::thread::id caller = std::this_thread::get_id();
  constexpr int regions = 200;
  std::atomic<int> waits = 0;
  for (int region = 0; region < regions && waits < regions / 2; ++region) {
    run_shares(2, 1, [&](int) {
      if (std::this_thread::get_id() != caller) {
        ++waits;
        std::this_thread::sleep_for(20ms);
      } else {
        compute_for(200us);
      }
    });
  }
  CHECK(waits < regions / 10);
}

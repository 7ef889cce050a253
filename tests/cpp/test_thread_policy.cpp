// The policy on machines that are made up, with their own clock: what a step takes there is stated, nothing is
// measured.

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <functional>

#include "thread_policy.hpp"

namespace {

using rmsprop::ThreadPolicy;
using Nanoseconds = ThreadPolicy::Nanoseconds;

constexpr Nanoseconds microsecond = 1'000;
constexpr Nanoseconds millisecond = 1'000'000;
constexpr Nanoseconds second = 1'000'000'000;

// A machine on which the calling thread has a CPU of its own, and others have theirs only at times.
struct Machine {
  int cpus = 2;
  Nanoseconds step_alone = 33 * microsecond;
  Nanoseconds waking = 60 * microsecond;         // of a thread that sleeps
  Nanoseconds falls_asleep_after = millisecond;  // without a region
  Nanoseconds between_steps = 0;
  // When a thread that wants to run at a time does run.
  std::function<Nanoseconds(int thread, Nanoseconds)> runs_at = [](int, Nanoseconds time) { return time; };
  std::function<double(int thread)> speed = [](int) { return 1.0; };  // of its CPU, by that of the calling thread

  Nanoseconds now = 0;
  Nanoseconds last_region = -second;

  // Until all threads are there.
  Nanoseconds all_there_at(int threads, Nanoseconds begin) {
    const bool are_awake = begin - last_region < falls_asleep_after;
    Nanoseconds latest = begin;
    for (int thread = 1; thread < threads; ++thread) {
      latest = std::max(latest, runs_at(thread, begin + (are_awake ? 0 : waking)));
    }
    return latest;
  }

  // The work is shared by all that are there; the region ends when the last is there.
  ThreadPolicy::Region region(int threads) {
    const Nanoseconds begin = now;
    const bool are_awake = begin - last_region < falls_asleep_after;
    double left = static_cast<double>(step_alone), own = 0.0;
    Nanoseconds time = begin, last = begin;
    int arrived = 1;
    // In small slices of time.
    const double slice = std::max(static_cast<double>(step_alone) / (32.0 * cpus), 1.0);
    while (left > 0.0) {
      arrived = 1;
      double done = slice;
      for (int thread = 1; thread < threads; ++thread) {
        if (runs_at(thread, begin + (are_awake ? 0 : waking)) > time) continue;
        ++arrived;
        done += slice * speed(thread);
      }
      left -= done;
      own += slice;
      time += static_cast<Nanoseconds>(slice);
    }
    last = std::max(time, all_there_at(threads, begin));
    now = last;
    last_region = now;
    return {threads, arrived, own / static_cast<double>(step_alone), time - begin, last - begin};
  }

  // Takes a step, and returns how long it took.
  Nanoseconds step(ThreadPolicy& policy) {
    const Nanoseconds begin = now;
    const ThreadPolicy::Choice choice = policy.choose(cpus, now);
    if (choice.threads == 1) {
      now += step_alone;
    } else {
      Nanoseconds spent = 0;
      if (choice.wakes_first) {
        now = all_there_at(choice.threads, now);
        last_region = now;
        spent = std::max<Nanoseconds>(now - begin, 1);
      }
      const ThreadPolicy::Region seen = region(choice.threads);
      policy.learn(seen, spent, now);
    }
    const Nanoseconds took = now - begin;
    now += between_steps;
    return took;
  }

  // The mean of all steps in some time.
  double mean(ThreadPolicy& policy, Nanoseconds duration) {
    const Nanoseconds begin = now;
    std::int64_t steps = 0, busy = 0;
    for (; now - begin < duration; ++steps) busy += step(policy);
    return static_cast<double>(busy) / static_cast<double>(steps);
  }

  double mean_with(int threads, Nanoseconds duration) {
    const Nanoseconds begin = now;
    std::int64_t steps = 0, busy = 0;
    for (; now - begin < duration; ++steps) {
      const Nanoseconds before = now;
      threads == 1 ? void(now += step_alone) : void(region(threads));
      busy += now - before;
      now += between_steps;
    }
    return static_cast<double>(busy) / static_cast<double>(steps);
  }
};

// Another program shares the CPUs of the last `busy` threads: in turns of 3 ms.
auto beside(int cpus, int busy) {
  return [=](int thread, Nanoseconds time) {
    if (thread < cpus - busy) return time;
    constexpr Nanoseconds turn = 3 * millisecond;
    return time / turn % 2 == 0 ? time : (time / turn + 1) * turn;
  };
}

}  // namespace

TEST_CASE("all threads are used where they help") {
  for (const Nanoseconds step_alone : {20 * microsecond, 700 * microsecond, 40 * millisecond}) {
    Machine machine;
    machine.step_alone = step_alone;
    ThreadPolicy policy;
    const double fixed = machine.mean_with(2, second);
    CHECK(machine.mean(policy, second) <= 1.03 * fixed);
  }
}

TEST_CASE("beside another program a step takes little longer than on the better number of threads") {
  for (const Nanoseconds step_alone : {20 * microsecond, 33 * microsecond, 700 * microsecond, 20 * millisecond}) {
    CAPTURE(step_alone);
    Machine machine;
    machine.step_alone = step_alone;
    machine.runs_at = beside(2, 1);
    ThreadPolicy policy;
    const double better = std::min(machine.mean_with(1, 5 * second), machine.mean_with(2, 5 * second));
    CHECK(machine.mean(policy, 5 * second) <= 1.25 * better);
  }
}

TEST_CASE("after one step that waited for a whole time slice the next ones do not wait") {
  Machine machine;
  ThreadPolicy policy;
  machine.mean(policy, second);
  machine.runs_at = [](int, Nanoseconds time) { return time + 3 * millisecond; };
  int slow = 0;
  for (int i = 0; i < 100; ++i) slow += machine.step(policy) > 2 * machine.step_alone;
  CHECK(slow >= 1);
  CHECK(slow <= 2);
  CHECK(machine.mean(policy, 5 * second) <= 1.1 * static_cast<double>(machine.step_alone));
}

TEST_CASE("full speed is back within half a second after the load has gone") {
  for (const Nanoseconds load : {20 * millisecond, second, 20 * second}) {
    Machine machine;
    ThreadPolicy policy;
    machine.runs_at = beside(2, 1);
    machine.mean(policy, load);
    machine.runs_at = [](int, Nanoseconds time) { return time; };
    machine.mean(policy, second / 2);
    CHECK(machine.mean(policy, second) <= 1.03 * machine.mean_with(2, second));
  }
}

TEST_CASE("steps that find the threads asleep are taken alone if they are short") {
  Machine machine;
  machine.between_steps = 5 * millisecond;
  ThreadPolicy policy;
  machine.mean(policy, second);
  CHECK(machine.mean(policy, 5 * second) <= 1.1 * static_cast<double>(machine.step_alone));
  machine.step_alone = 2 * millisecond;
  machine.mean(policy, second);
  CHECK(machine.mean(policy, 5 * second) <= 0.6 * static_cast<double>(machine.step_alone));
}

TEST_CASE("long work after a pause is begun before the threads are there") {
  for (const Nanoseconds step_alone : {100 * microsecond, 5 * millisecond}) {
    Machine machine;
    machine.step_alone = step_alone;
    machine.runs_at = [](int, Nanoseconds time) { return time + 8 * millisecond; };
    ThreadPolicy policy;
    for (int i = 0; i < 10; ++i) machine.step(policy);
    CHECK(policy.choose(2, machine.now + ThreadPolicy::longest_pause).threads == 2);
    CHECK(policy.choose(2, machine.now + ThreadPolicy::longest_pause).wakes_first == (step_alone < millisecond));
  }
}

TEST_CASE("one lost thread of many costs one thread") {
  Machine machine;
  machine.cpus = 64;
  machine.step_alone = 6400 * microsecond;
  machine.runs_at = beside(64, 1);
  ThreadPolicy policy;
  machine.mean(policy, second);
  CHECK(machine.mean(policy, 5 * second) <= 1.25 * static_cast<double>(machine.step_alone) / 63.0);
}

TEST_CASE("a delay now and then, as every machine has, changes nothing") {
  Machine machine;
  std::int64_t steps = 0;
  machine.runs_at = [&](int, Nanoseconds time) { return ++steps % 5000 == 0 ? time + 40 * microsecond : time; };
  ThreadPolicy policy;
  machine.mean(policy, second / 10);
  int steps_alone = 0;
  for (int i = 0; i < 10'000; ++i) {
    steps_alone += policy.choose(2, machine.now).threads == 1;
    machine.step(policy);
  }
  CHECK(steps > 50'000);
  CHECK(steps_alone == 0);
}

TEST_CASE("a time slice that is lost now and then costs little more than that") {
  for (const Nanoseconds step_alone : {33 * microsecond, 500 * microsecond}) {
    CAPTURE(step_alone);
    Machine machine;
    machine.step_alone = step_alone;
    machine.runs_at = [](int, Nanoseconds time) {
      constexpr Nanoseconds every = 300 * millisecond, lost = 5 * millisecond;
      return time % every < lost ? time / every * every + lost : time;
    };
    ThreadPolicy policy;
    CHECK(machine.mean(policy, 5 * second) <= 1.05 * machine.mean_with(2, 5 * second));
  }
}

TEST_CASE("threads that take the calling thread's CPU are left out, though they do all the work") {
  ThreadPolicy policy;
  constexpr Nanoseconds slice = 8 * millisecond;
  Nanoseconds now = 0, waiting = 0;
  int slow = 0;
  while (now < 5 * second) {
    const ThreadPolicy::Choice choice = policy.choose(2, now);
    if (choice.threads == 1) {
      now += 33 * microsecond;
      continue;
    }
    const Nanoseconds waking = choice.wakes_first ? slice : 0;
    now += waking + slice;
    waiting += waking + slice;
    ++slow;
    policy.learn({.threads = 2, .arrived = 2, .own_part = 0.0, .own = 0, .whole = slice}, waking, now);
  }
  CHECK(slow >= 1);
  CHECK(waiting < now / 10);
}

TEST_CASE("a region in which the calling thread lost its CPU changes nothing where the others help") {
  Machine machine;
  ThreadPolicy policy;
  machine.mean(policy, second);
  policy.learn({.threads = 2, .arrived = 2, .own_part = 0.0, .own = 0, .whole = 4 * millisecond}, 0, machine.now);
  CHECK(policy.choose(2, machine.now).threads == 2);
}

TEST_CASE("cores of different speed are all used") {
  Machine machine;
  machine.cpus = 8;
  machine.step_alone = 800 * microsecond;
  for (const bool is_called_on_a_fast_one : {true, false}) {
    CAPTURE(is_called_on_a_fast_one);
    machine.speed = [=](int thread) { return thread < 4 ? 1.0 : is_called_on_a_fast_one ? 0.3 : 3.0; };
    ThreadPolicy policy;
    CHECK(machine.mean(policy, second) <= 1.03 * machine.mean_with(8, second));
  }
}

TEST_CASE("on many cores, whose threads begin one after the other, little is lost against the best number of threads") {
  // As measured on machines with a hundred cores: a region of all of them takes some tens of microseconds to begin.
  for (const int cpus : {64, 128}) {
    for (const Nanoseconds step_alone : {300 * microsecond, 2 * millisecond, 20 * millisecond}) {
      CAPTURE(cpus);
      CAPTURE(step_alone);
      Machine machine;
      machine.cpus = cpus;
      machine.step_alone = step_alone;
      machine.runs_at = [](int thread, Nanoseconds time) { return time + thread * microsecond / 2; };
      double best = static_cast<double>(step_alone);
      for (int threads = 2; threads <= cpus; threads *= 2) {
        best = std::min(best, machine.mean_with(threads, second / 20));
      }
      ThreadPolicy policy;
      CHECK(machine.mean(policy, 5 * second) <= 1.25 * best);
    }
  }
}

// A child made by fork() steps, with the same bits, on its own thread. POSIX only.

#if defined(__unix__) || defined(__APPLE__)

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <thread>

#include "arrays.hpp"
#include "cases.hpp"
#include "oracle.hpp"
#include "rmsprop/rmsprop.hpp"

namespace {

constexpr std::int64_t size = 100'003;  // enough for several shares
constexpr int threads = 3;

// Runs body in a child. True if it returned true, false if it returned false, crashed or hung.
template <class Body>
bool in_forked_child(Body body) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(30);  // ends a child that hangs
    _exit(body() ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

struct Steps {
  Case c = {"rmsprop", rmsprop::RMSprop{}};
  Operands<float> initial = ordinary_operands<float>(size, 1);
  Operands<float> wanted = oracle_step(c.hyperparameters, 1, initial);

  bool has_specified_bits() const { return step_differs(c, 1, initial, wanted, size, threads).empty(); }
};

}  // namespace

TEST_CASE("a forked child steps without hanging and gets the same bits") {
  const Steps steps;
  REQUIRE(steps.has_specified_bits());  // the parent's pool of threads exists
  CHECK(in_forked_child([&] { return steps.has_specified_bits(); }));
  CHECK(steps.has_specified_bits());
}

TEST_CASE("a child of a forked child steps without hanging") {
  const Steps steps;
  REQUIRE(steps.has_specified_bits());
  CHECK(in_forked_child([&] { return in_forked_child([&] { return steps.has_specified_bits(); }); }));
}

TEST_CASE("a forked child says that it steps on one thread, whatever is set") {
  const int before = rmsprop::get_num_threads();
  rmsprop::set_num_threads(threads);
  CHECK(in_forked_child([] { return rmsprop::get_num_threads() == 1; }));
  CHECK(in_forked_child([] {
    rmsprop::set_num_threads(2);
    return rmsprop::get_num_threads() == 1;
  }));
  CHECK(rmsprop::get_num_threads() == threads);
  rmsprop::set_num_threads(before);
}

TEST_CASE("a child forked while another thread steps does not hang") {
  const Steps steps;
  std::atomic<bool> stop{false}, same{true};
  std::thread other([&] {
    while (!stop) same = same && steps.has_specified_bits();
  });
  // What a child may do after a fork beside running threads is little; allocated beforehand, a step is part of it.
  GuardedOperands<float> operands(steps.initial, size);
  const rmsprop::Update update = make_update(steps.c.hyperparameters, 1);
  const rmsprop::Tensor tensor = operands.tensor(update);
  for (int i = 0; i < 20; ++i) {
    CHECK(in_forked_child([&] {
      rmsprop::step({&tensor, 1}, threads);
      return operands.differs_from(steps.wanted).empty();
    }));
  }
  stop = true;
  other.join();
  CHECK(same);
}

#endif

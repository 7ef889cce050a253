// The system refuses threads or memory. Where the engine fails, the OpenMP runtime ends the whole program: so these are
// left out unless asked for by --no-skip, and each is run in a process of its own. Linux only.

#if defined(__linux__)

#include <doctest/doctest.h>
#include <limits.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <thread>
#include <utility>

#include "arrays.hpp"
#include "cases.hpp"
#include "oracle.hpp"
#include "rmsprop/rmsprop.hpp"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace {

constexpr int many = 16;

// Steps that are worth `many` threads, with all their memory there beforehand.
class Steps {
 public:
  explicit Steps(std::int64_t size = 400'000)
      : wanted_(ordinary_operands<float>(size, 12)),
        update_(make_update(c_.hyperparameters, 1)),
        operands_(wanted_, size),
        tensor_(operands_.tensor(update_)) {}

  void step(int threads) {
    rmsprop::step({&tensor_, 1}, threads);
    ++taken_;
  }

  // Whether all steps gave the specified bits. Only without a limit: it takes memory.
  bool are_right() {
    for (; taken_ > 0; --taken_) wanted_ = oracle_step(c_.hyperparameters, 1, std::move(wanted_));
    return operands_.differs_from(wanted_).empty();
  }

 private:
  Case c_ = {"rmsprop", rmsprop::RMSprop{}};
  Operands<float> wanted_;
  rmsprop::Update update_;
  GuardedOperands<float> operands_;
  rmsprop::Tensor tensor_;
  int taken_ = 0;
};

std::uint64_t address_space_in_use() {
  std::uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

// Lets the process have so much more address space than it has, as long as it lives.
class AddressSpaceLimit {
 public:
  explicit AddressSpaceLimit(std::uint64_t more) {
    REQUIRE(getrlimit(RLIMIT_AS, &before_) == 0);
    const rlimit limit = {address_space_in_use() + more, before_.rlim_max};
    REQUIRE(setrlimit(RLIMIT_AS, &limit) == 0);
  }
  ~AddressSpaceLimit() { setrlimit(RLIMIT_AS, &before_); }
  AddressSpaceLimit(const AddressSpaceLimit&) = delete;
  AddressSpaceLimit& operator=(const AddressSpaceLimit&) = delete;

 private:
  rlimit before_ = {};
};

constexpr std::uint64_t megabyte = 1 << 20;

[[maybe_unused]] void wait_for_threads_to_end() { std::this_thread::sleep_for(std::chrono::milliseconds(100)); }

}  // namespace

TEST_CASE("a step survives that the system refuses it threads" * doctest::skip()) {
  Steps steps(4'000'000);
  {
    const AddressSpaceLimit room_for_some_stacks(512 * megabyte);
    steps.step(400);
  }
  CHECK(steps.are_right());
}

TEST_CASE("a step survives that the system refuses it threads that it had before a step on fewer" * doctest::skip()) {
  Steps steps;
  steps.step(many);
  steps.step(2);
  {
    const AddressSpaceLimit limit(megabyte);
    steps.step(many);
    steps.step(2);
    steps.step(many);
  }
  steps.step(many);
  CHECK(steps.are_right());
}

TEST_CASE("a step survives that a thread of the host that is new is refused what others have" * doctest::skip()) {
  Steps steps;
  steps.step(many);
  std::thread([&] {
    const AddressSpaceLimit limit(megabyte);
    steps.step(many);
  }).join();
  CHECK(steps.are_right());
}

TEST_CASE("a step survives that threads may have larger stacks than there is room for" * doctest::skip()) {
  // Run with OMP_STACKSIZE=1G.
  Steps steps;
  {
    const AddressSpaceLimit limit(1024 * megabyte);
    steps.step(4);
  }
  CHECK(steps.are_right());
}

TEST_CASE("a step survives that many threads start from one with little stack" * doctest::skip()) {
  Steps steps(8'000'000);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  REQUIRE(pthread_attr_setstacksize(&attributes, std::max<std::size_t>(32'768, PTHREAD_STACK_MIN)) == 0);
  pthread_t thread;
  const auto run = [](void* steps_of_test) -> void* {
    static_cast<Steps*>(steps_of_test)->step(700);
    return nullptr;
  };
  REQUIRE(pthread_create(&thread, &attributes, run, &steps) == 0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
  CHECK(steps.are_right());
}

#if defined(_OPENMP)

namespace {

void host_uses_openmp(int threads) {
  std::atomic<int> started{0};
#pragma omp parallel num_threads(threads)
  ++started;
  REQUIRE(started == threads);
}

}  // namespace

TEST_CASE("a step survives that the host has used fewer threads before there is a limit" * doctest::skip()) {
  Steps steps;
  for (int i = 0; i < 3; ++i) {
    steps.step(many);
    host_uses_openmp(2);
    wait_for_threads_to_end();
    const AddressSpaceLimit limit(megabyte);
    steps.step(many);
  }
  CHECK(steps.are_right());
}

TEST_CASE("a step survives that the host has used fewer threads and taken all memory" * doctest::skip()) {
  Steps steps;
  constexpr std::size_t room = 512 * megabyte;
  {
    const AddressSpaceLimit limit(room);
    steps.step(many);
    host_uses_openmp(2);
    wait_for_threads_to_end();
    std::size_t taken = 0;
    for (std::size_t size = room; size >= megabyte; size /= 2) {
      while (mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED) taken += size;
    }
    REQUIRE(taken > room / 4);
    steps.step(many);
  }
  CHECK(steps.are_right());
}

TEST_CASE("a step survives that nested threads, which the runtime does not keep, are refused" * doctest::skip()) {
  Steps steps;
  omp_set_max_active_levels(2);
#pragma omp parallel num_threads(2)
  {
#pragma omp master
    {
      steps.step(many);
      const AddressSpaceLimit limit(megabyte);
      steps.step(many);
    }
  }
  CHECK(steps.are_right());
}

#endif
#endif

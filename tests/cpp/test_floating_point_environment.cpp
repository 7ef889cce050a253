// A host's floating point environment changes no bit of a step, and no step changes the environment.

#include <doctest/doctest.h>

#include <cfenv>
#include <cstdint>
#include <string>
#include <vector>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif
#if defined(_OPENMP)
#include <omp.h>
#endif

#include "arrays.hpp"
#include "cases.hpp"
#include "oracle.hpp"
#include "rmsprop/rmsprop.hpp"

namespace {

// The control and status bits of the calling thread.
struct Environment {
  std::uint64_t control = 0, status = 0;
  bool operator==(const Environment&) const = default;
};

#if defined(__x86_64__) || defined(_M_X64)
#define RMSPROP_TESTS_KNOW_THE_ENVIRONMENT 1
constexpr std::uint64_t flags_mask = 0x3F;
constexpr std::uint64_t flush_subnormals = 0x8040;  // FTZ and DAZ
constexpr std::uint64_t round_up = 0x4000;
constexpr std::uint64_t one_exception = 0x04;  // a division by zero that the host has yet to look at

Environment environment() {
  const std::uint64_t word = _mm_getcsr();
  return {word & ~flags_mask, word & flags_mask};
}
void set_environment(Environment e) { _mm_setcsr(static_cast<unsigned>(e.control | e.status)); }
#elif defined(__aarch64__)
#define RMSPROP_TESTS_KNOW_THE_ENVIRONMENT 1
constexpr std::uint64_t flush_subnormals = 1u << 24;  // FZ
constexpr std::uint64_t round_up = 1u << 22;
constexpr std::uint64_t one_exception = 0x02;

Environment environment() {
  Environment e;
  __asm__ volatile("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(e.control), "=r"(e.status));
  return e;
}
void set_environment(Environment e) {
  __asm__ volatile("msr fpcr, %0\n\tmsr fpsr, %1" : : "r"(e.control), "r"(e.status) : "memory");
}
#endif

}  // namespace

#if defined(RMSPROP_TESTS_KNOW_THE_ENVIRONMENT)

namespace {

struct Host {
  const char* name;
  std::uint64_t control;  // set on top of the default
};
constexpr Host hosts[] = {{"default", 0},
                          {"flushes subnormals", flush_subnormals},
                          {"rounds up", round_up},
                          {"flushes and rounds up", flush_subnormals | round_up}};

// A host's environment on the calling thread for as long as it lives, with one exception flag raised.
class HostEnvironment {
 public:
  explicit HostEnvironment(const Host& host) : before_(environment()) {
    mine_ = {before_.control | host.control, one_exception};
    set_environment(mine_);
  }
  ~HostEnvironment() { set_environment(before_); }
  HostEnvironment(const HostEnvironment&) = delete;
  HostEnvironment& operator=(const HostEnvironment&) = delete;

  bool is_untouched() const { return environment() == mine_; }

 private:
  Environment before_;
  Environment mine_;
};

// Sums, products and quotients of these are subnormal, or differ in the last bit between rounding modes.
template <class T>
Operands<T> delicate_operands(std::int64_t size) {
  Operands<T> operands = ordinary_operands<T>(size, 1);
  for (std::size_t i = 0; i < operands[0].size(); i += 2) {
    for (auto& values : operands) values[i] *= std::numeric_limits<T>::min();
  }
  return operands;
}

}  // namespace

TEST_CASE_TEMPLATE("a host's rounding mode and flushing of subnormals change no bit and come back with the flags", T,
                   float, double) {
  const Operands<T> special = special_operands<T>();
  const Operands<T> delicate = delicate_operands<T>(1'000);
  for (Case c : every_rule()) {
    for (const bool prepares : {false, true}) {
      if (prepares) preparation(c.hyperparameters) = {0.3, 0.7, 100.0, true, 0.01, false};
      for (const Operands<T>* initial : {&special, &delicate}) {
        const Operands<T> wanted = oracle_step(c.hyperparameters, 1, *initial);
        const rmsprop::Update update = make_update(c.hyperparameters, 1);
        on_every_instruction_set([&](const std::string& set) {
          for (const Host& host : hosts) {
            CAPTURE(set);
            CAPTURE(c.name);
            CAPTURE(host.name);
            GuardedOperands<T> operands(*initial, std::ssize((*initial)[0]));
            const rmsprop::Tensor tensor = operands.tensor(update);
            bool untouched = false;
            {
              const HostEnvironment environment(host);
              rmsprop::step({&tensor, 1}, 1);
              untouched = environment.is_untouched();
            }
            CHECK(untouched);
            CHECK(operands.differs_from(wanted) == "");
          }
        });
      }
    }
  }
}

TEST_CASE("a host's floating point environment changes no coefficient") {
  // lr, eps and weight_decay are such that every derived number is inexact or, in float64, subnormal.
  rmsprop::RMSprop h;
  h.lr = 1e-160;
  h.alpha = 0.9;
  h.eps = 1e-310;
  h.bias_correction = true;
  h.prepare.weight_decay = 1e-150;
  h.prepare.decoupled_weight_decay = true;
  rmsprop::Adagrad a;
  a.lr = 1e-3;
  a.lr_decay = 0.1;
  const rmsprop::Update wanted = rmsprop::make_update(h, 37);
  const rmsprop::Update wanted_of_adagrad = rmsprop::make_update(a, 37);
  REQUIRE(wanted.coefficients.decoupled_decay > 0.0);
  REQUIRE(wanted.coefficients.decoupled_decay < std::numeric_limits<double>::min());
  for (const Host& host : hosts) {
    CAPTURE(host.name);
    rmsprop::Update got, got_of_adagrad;
    bool untouched = false;
    {
      const HostEnvironment environment(host);
      got = rmsprop::make_update(h, 37);
      got_of_adagrad = rmsprop::make_update(a, 37);
      untouched = environment.is_untouched();
    }
    CHECK(untouched);
    CHECK(got.coefficients.one_minus_alpha == wanted.coefficients.one_minus_alpha);
    CHECK(got.coefficients.correction == wanted.coefficients.correction);
    CHECK(got.coefficients.eps_inside == wanted.coefficients.eps_inside);
    CHECK(got.coefficients.decoupled_decay == wanted.coefficients.decoupled_decay);
    CHECK(got_of_adagrad.coefficients.lr_inside == wanted_of_adagrad.coefficients.lr_inside);
  }
}

#if defined(__x86_64__) || defined(_M_X64)
TEST_CASE("a step does not trap in a host that has unmasked floating point exceptions") {
  const Operands<double> initial = special_operands<double>();
  const Case c = {"rmsprop", rmsprop::RMSprop{}};
  const Operands<double> wanted = oracle_step(c.hyperparameters, 1, initial);
  const rmsprop::Update update = make_update(c.hyperparameters, 1);
  GuardedOperands<double> operands(initial, std::ssize(initial[0]));
  const rmsprop::Tensor tensor = operands.tensor(update);
  const Environment before = environment();
  constexpr std::uint64_t masks = 0x1F80;
  set_environment({before.control & ~masks, 0});
  rmsprop::step({&tensor, 1}, 1);
  const Environment after = environment();
  set_environment(before);
  CHECK(after == Environment{before.control & ~masks, 0});
  CHECK(operands.differs_from(wanted) == "");
}
#endif

#if defined(_OPENMP)
TEST_CASE("the environment of every worker thread changes no bit and comes back with the flags") {
  constexpr int threads = 3;
  const std::int64_t size = 90'000;
  const Operands<float> initial = delicate_operands<float>(size);
  const Case c = {"rmsprop", rmsprop::RMSprop{}};
  const Operands<float> wanted = oracle_step(c.hyperparameters, 1, initial);
  const rmsprop::Update update = make_update(c.hyperparameters, 1);
  for (const Host& host : hosts) {
    CAPTURE(host.name);
    GuardedOperands<float> operands(initial, size);
    const rmsprop::Tensor tensor = operands.tensor(update);
    Environment before[threads], during[threads], after[threads];
    // The runtime keeps its threads between regions of one size, so these are the threads that the step runs on.
#pragma omp parallel num_threads(threads)
    {
      const int i = omp_get_thread_num();
      before[i] = environment();
      during[i] = {before[i].control | host.control, one_exception};
      set_environment(during[i]);
    }
    rmsprop::step({&tensor, 1}, threads);
#pragma omp parallel num_threads(threads)
    {
      const int i = omp_get_thread_num();
      after[i] = environment();
      set_environment(before[i]);
    }
#if !defined(KMP_VERSION_MAJOR)
    // LLVM's runtime has its threads take over the calling thread's environment whenever a region begins, the host's or
    // ours, so there what they had before does not come back.
    for (int i = 0; i < threads; ++i) CHECK(after[i] == during[i]);
#endif
    CHECK(operands.differs_from(wanted) == "");
  }
}
#endif

#endif

TEST_CASE("a step leaves no exception flag behind") {
  const Operands<float> initial = special_operands<float>();
  GuardedOperands<float> operands(initial, std::ssize(initial[0]));
  const rmsprop::Update update = rmsprop::make_update(rmsprop::RMSprop{}, 1);
  const rmsprop::Tensor tensor = operands.tensor(update);
  std::feclearexcept(FE_ALL_EXCEPT);
  rmsprop::step({&tensor, 1}, 1);
  CHECK(std::fetestexcept(FE_ALL_EXCEPT) == 0);
}

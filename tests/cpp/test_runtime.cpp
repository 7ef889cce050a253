// Instruction sets and numbers of threads: what there is, what is chosen, and what is refused.

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

#include "cases.hpp"
#include "rmsprop/rmsprop.hpp"
#include "x86_64_levels.hpp"

namespace {

std::string chosen() {
  std::string name;
  for (const auto& set : rmsprop::instruction_sets()) {
    if (set.chosen) name += set.name;  // two chosen ones make a name that no set has
  }
  return name;
}

std::string supported_list() {
  std::string names;
  for (const auto& set : rmsprop::instruction_sets()) {
    if (set.supported) names += (names.empty() ? "" : ", ") + std::string(set.name);
  }
  return names;
}

// The message with which `call` refuses, or "" if it does not.
template <class Call>
std::string refusal(Call call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

// RMSPROP_ISA for as long as it lives; null: unset. Restores it and the chosen set.
class IsaVariable {
 public:
  explicit IsaVariable(const char* value) {
    const char* before = std::getenv("RMSPROP_ISA");
    was_set_ = before != nullptr;
    if (was_set_) before_ = before;
    set(value);
  }
  ~IsaVariable() {
    set(was_set_ ? before_.c_str() : nullptr);
    rmsprop::use_instruction_set(set_before_);
  }
  IsaVariable(const IsaVariable&) = delete;
  IsaVariable& operator=(const IsaVariable&) = delete;

 private:
  static void set(const char* value) {
#if defined(_WIN32)
    _putenv_s("RMSPROP_ISA", value == nullptr ? "" : value);
#else
    value == nullptr ? unsetenv("RMSPROP_ISA") : setenv("RMSPROP_ISA", value, 1);
#endif
  }

  bool was_set_ = false;
  std::string before_;
  std::string set_before_ = chosen();
};

}  // namespace

TEST_CASE("the best supported instruction set is chosen at first and the baseline is always there") {
  const auto sets = rmsprop::instruction_sets();
  REQUIRE(!sets.empty());
  CHECK(sets.back().name == "baseline");
  CHECK(sets.back().supported);
  const auto best = std::find_if(sets.begin(), sets.end(), [](const auto& set) { return set.supported; });
  CHECK(chosen() == best->name);
#if defined(__x86_64__) || defined(_M_X64)
  REQUIRE(sets.size() == 3);
  CHECK(sets[0].name == "x86-64-v4");
  CHECK(sets[1].name == "x86-64-v3");
#endif
}

#if defined(__x86_64__) && defined(__GNUC__)
TEST_CASE("an instruction set is supported exactly if the compiler's own detection says so") {
  for (const auto& set : rmsprop::instruction_sets()) {
    if (set.name == "x86-64-v3")
      CHECK(set.supported == (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")));
    if (set.name == "x86-64-v4") {
      CHECK(set.supported == (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                              __builtin_cpu_supports("avx512cd")));
    }
  }
}
#endif

namespace {

// The bits that the psABI asks of x86-64-v3 and, on top of them, of x86-64-v4, as its tables list them.
struct Required {
  unsigned rmsprop::CpuReport::* word;
  std::vector<int> bits;
};

std::vector<Required> required_by_v3() {
  using rmsprop::CpuReport;
  return {{&CpuReport::leaf1_ecx, {0, 9, 12, 13, 19, 20, 22, 23, 27, 28, 29}},  // OSXSAVE is 27, AVX 28
          {&CpuReport::leaf7_ebx, {3, 5, 8}},
          {&CpuReport::leaf80000001_ecx, {0, 5}},
          {&CpuReport::xcr0, {1, 2}}};
}

std::vector<Required> required_by_v4_alone() {
  using rmsprop::CpuReport;
  return {{&CpuReport::leaf7_ebx, {16, 17, 28, 30, 31}}, {&CpuReport::xcr0, {5, 6, 7}}};
}

rmsprop::CpuReport cpu_with(const std::vector<Required>& required, rmsprop::CpuReport cpu = {}) {
  for (const Required& r : required) {
    for (const int bit : r.bits) cpu.*r.word |= 1u << bit;
  }
  return cpu;
}

// Calls check(report) for each bit, on a CPU that has everything but it.
template <class Check>
void without_each_of(const std::vector<Required>& required, Check check) {
  for (const Required& r : required) {
    for (const int bit : r.bits) {
      rmsprop::CpuReport cpu = {~0u, ~0u, ~0u, ~0u};
      cpu.*r.word &= ~(1u << bit);
      CAPTURE(bit);
      check(cpu);
    }
  }
}

}  // namespace

TEST_CASE("a level of x86-64 needs every bit that its definition lists and no other") {
  const rmsprop::CpuReport v3 = cpu_with(required_by_v3());
  const rmsprop::CpuReport v4 = cpu_with(required_by_v4_alone(), v3);
  CHECK(rmsprop::supports_x86_64_v3(v3));
  CHECK_FALSE(rmsprop::supports_x86_64_v4(v3));
  CHECK(rmsprop::supports_x86_64_v3(v4));
  CHECK(rmsprop::supports_x86_64_v4(v4));
  CHECK_FALSE(rmsprop::supports_x86_64_v3({}));
}

TEST_CASE("a CPU that lacks one feature, or whose system does not save the registers, does not support the level") {
  without_each_of(required_by_v3(), [](const rmsprop::CpuReport& cpu) {
    CHECK_FALSE(rmsprop::supports_x86_64_v3(cpu));
    CHECK_FALSE(rmsprop::supports_x86_64_v4(cpu));
  });
  without_each_of(required_by_v4_alone(), [](const rmsprop::CpuReport& cpu) {
    CHECK(rmsprop::supports_x86_64_v3(cpu));
    CHECK_FALSE(rmsprop::supports_x86_64_v4(cpu));
  });
}

TEST_CASE("XCR0 is read exactly if the CPU reports OSXSAVE") {
  CHECK(rmsprop::has_osxsave({1u << 27, 0, 0, 0}));
  CHECK_FALSE(rmsprop::has_osxsave({~(1u << 27), ~0u, ~0u, ~0u}));
}

TEST_CASE("use_instruction_set chooses the set it is given") {
  on_every_instruction_set([](const std::string& set) { CHECK(chosen() == set); });
}

TEST_CASE("an unknown instruction set is refused with the names of those supported and the choice stays") {
  const std::string before = chosen();
  for (const char* name : {"avx9000", "", "Baseline", "baseline ", "x86-64-v"}) {
    CAPTURE(name);
    CHECK(refusal([&] { rmsprop::use_instruction_set(name); }) ==
          "unknown instruction set '" + std::string(name) + "'; supported here: " + supported_list());
    CHECK(chosen() == before);
  }
}

TEST_CASE("an instruction set that this CPU lacks is refused with the names of those it has and the choice stays") {
  const std::string before = chosen();
  for (const auto& set : rmsprop::instruction_sets()) {
    if (set.supported) continue;
    CHECK(refusal([&] { rmsprop::use_instruction_set(set.name); }) ==
          "instruction set '" + std::string(set.name) +
              "' is not supported by this CPU and operating system; supported here: " + supported_list());
    CHECK(chosen() == before);
  }
}

TEST_CASE("RMSPROP_ISA chooses the set it names") {
  for (const auto& set : rmsprop::instruction_sets()) {
    if (!set.supported) continue;
    const IsaVariable variable(std::string(set.name).c_str());
    rmsprop::use_instruction_set_from_environment();
    CHECK(chosen() == set.name);
  }
}

TEST_CASE("RMSPROP_ISA unset or empty leaves the choice at the best") {
  for (const char* value : {static_cast<const char*>(nullptr), ""}) {
    const IsaVariable variable(value);
    const std::string before = chosen();
    rmsprop::use_instruction_set_from_environment();
    CHECK(chosen() == before);
  }
}

TEST_CASE("RMSPROP_ISA with an unknown or unsupported name is refused by the variable's name and the choice stays") {
  std::vector<std::string> names = {"nonsense"};
  for (const auto& set : rmsprop::instruction_sets()) {
    if (!set.supported) names.emplace_back(set.name);
  }
  for (const std::string& name : names) {
    CAPTURE(name);
    const IsaVariable variable(name.c_str());
    const std::string before = chosen();
    const std::string message = refusal([] { rmsprop::use_instruction_set_from_environment(); });
    CHECK(message.starts_with("RMSPROP_ISA: "));
    CHECK(message.find("'" + name + "'") != std::string::npos);
    CHECK(message.find("supported here: " + supported_list()) != std::string::npos);
    CHECK(chosen() == before);
  }
}

TEST_CASE("set_num_threads takes 1 to max_num_threads and refuses the rest") {
  const int before = rmsprop::get_num_threads();
  for (const int n : {1, 2, rmsprop::max_num_threads}) {
    rmsprop::set_num_threads(n);
    CHECK(rmsprop::get_num_threads() == n);
  }
  rmsprop::set_num_threads(2);
  for (const int n :
       {0, -1, rmsprop::max_num_threads + 1, std::numeric_limits<int>::min(), std::numeric_limits<int>::max()}) {
    CAPTURE(n);
    CHECK(refusal([&] { rmsprop::set_num_threads(n); }) == "num_threads: got " + std::to_string(n) +
                                                               ", wanted a number from 1 to " +
                                                               std::to_string(rmsprop::max_num_threads));
    CHECK(rmsprop::get_num_threads() == 2);
  }
  rmsprop::set_num_threads(before);
}

TEST_CASE("the default number of threads is OpenMP's, but never more than the CPUs there are") {
  const char* wanted = std::getenv("OMP_NUM_THREADS");
  const int cpus = rmsprop::available_cpus();
  CHECK(cpus >= 1);
  int expected = cpus;
  if (wanted != nullptr && std::atoi(wanted) >= 1) expected = std::min(cpus, std::atoi(wanted));
  if (rmsprop::openmp_version() == 0) expected = 1;
  CHECK(rmsprop::get_num_threads() == expected);
}

TEST_CASE("the OpenMP version is stated as the compiler states it") {
#if defined(_OPENMP)
  CHECK(rmsprop::openmp_version() == _OPENMP);
#else
  CHECK(rmsprop::openmp_version() == 0);
#endif
}

#if defined(__linux__)
TEST_CASE("available_cpus is never more than the affinity mask allows") {
  cpu_set_t before;
  REQUIRE(sched_getaffinity(0, sizeof before, &before) == 0);
  CHECK(rmsprop::available_cpus() <= CPU_COUNT(&before));
  int first = 0;
  while (!CPU_ISSET(first, &before)) ++first;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
  const int available = rmsprop::available_cpus();
  sched_setaffinity(0, sizeof before, &before);
  CHECK(available == 1);
}
#endif

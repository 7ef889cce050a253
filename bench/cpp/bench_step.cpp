// Steps timed side by side with the two limits of the machine; see ../README.md.
//
// The machine may be shared and its clock may change while this runs, so each benchmark alternates short blocks of the
// step and of both limits, over the same arrays, and compares the medians of the blocks.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <memory>
#include <optional>
#include <regex>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "limits.hpp"
#include "rmsprop/rmsprop.hpp"
#include "threads.hpp"

namespace {

// ---- What is measured
// ------------------------------------------------------------------------------------------------

struct Options {
  double seconds = 0.2;  // per benchmark, roughly
  int threads = rmsprop::get_num_threads();
};

// The sizes of the parameters that one step updates.
struct Workload {
  std::string name;
  std::vector<std::int64_t> sizes;
};

std::vector<Workload> workloads() {
  std::vector<Workload> all;
  for (std::int64_t size = 1 << 10; size <= 64 << 20; size *= 4) all.push_back({std::to_string(size), {size}});
  all.push_back({"1000x64", std::vector<std::int64_t>(1'000, 64)});
  all.push_back({"mlp-784-128-10", {784 * 128, 128, 128 * 10, 10}});
  return all;
}

struct Rule {
  const char* name;
  rmsprop::Update update;
  int accesses;  // reads and writes of memory per element
  bool has_all_state;
};

std::vector<Rule> rules() {
  rmsprop::RMSprop rmsprop_rule;
  rmsprop_rule.alpha = 0.999999;  // so that the accumulator stays as random as it begins
  rmsprop::RMSprop full_rule = rmsprop_rule;
  full_rule.centered = true;
  full_rule.momentum = 0.9;
  return {{"rmsprop", rmsprop::make_update(rmsprop_rule, 1), 5, false},
          {"adagrad", rmsprop::make_update(rmsprop::Adagrad{}, 1), 5, false},
          {"rmsprop-centered-momentum", rmsprop::make_update(full_rule, 1), 9, true}};
}

struct Benchmark {
  Rule rule;
  std::string instruction_set;
  Workload workload;
  int threads;
};

// ---- How it is measured
// ----------------------------------------------------------------------------------------------

using Clock = std::chrono::steady_clock;

// Something that is run over and over: some times in each block, so that a block is long enough for the clock, and
// short enough that an interruption spoils few of them.
class Contestant {
 public:
  explicit Contestant(std::function<void()> run) : run_(std::move(run)) {
    while (seconds_of_block() < least_seconds_of_block) repetitions_ *= 2;
  }

  // Returns how long the block took.
  double run_block() {
    const double seconds = seconds_of_block();
    samples_.push_back(seconds / static_cast<double>(repetitions_));
    return seconds;
  }

  double median_seconds() {
    const auto middle = samples_.begin() + std::ssize(samples_) / 2;
    std::nth_element(samples_.begin(), middle, samples_.end());
    return *middle;
  }

 private:
  static constexpr double least_seconds_of_block = 30e-6;

  double seconds_of_block() const {
    const auto begin = Clock::now();
    for (std::int64_t i = 0; i < repetitions_; ++i) run_();
    return std::chrono::duration<double>(Clock::now() - begin).count();
  }

  std::function<void()> run_;
  std::int64_t repetitions_ = 1;
  std::vector<double> samples_;
};

template <class T>
void run_limit(typename Limits<T>::Loop loop, const Arrays<T>& arrays, int shares) {
  struct Work {
    typename Limits<T>::Loop loop;
    const Arrays<T>& arrays;
    int shares;
  } const work = {loop, arrays, shares};
  rmsprop::run_shares({shares, 1,
                       [](const void* context, int share) {
                         const Work& w = *static_cast<const Work*>(context);
                         w.arrays.for_share(share, w.shares, w.loop);
                       },
                       &work});
}

// Consecutive benchmarks with the same arrays share them; there is never memory for more than one workload.
template <class T>
const Arrays<T>& arrays_for(const Workload& workload, int threads) {
  static std::unique_ptr<Arrays<T>> arrays;
  static std::string of;
  const std::string wanted = workload.name + "/" + std::to_string(threads);
  if (wanted != of) {
    arrays.reset();
    arrays = std::make_unique<Arrays<T>>(workload.sizes, threads);
    of = wanted;
  }
  return *arrays;
}

template <class T>
std::vector<rmsprop::Tensor> tensors_of(const Arrays<T>& arrays, const Rule& rule) {
  std::vector<rmsprop::Tensor> tensors;
  for (const auto& array : arrays.tensors()) {
    rmsprop::Tensor& tensor = tensors.emplace_back();
    tensor.data[rmsprop::param] = reinterpret_cast<std::byte*>(array.param);
    tensor.data[rmsprop::grad] = reinterpret_cast<std::byte*>(array.grad);
    tensor.data[rmsprop::square_avg] = reinterpret_cast<std::byte*>(array.square_avg);
    if (rule.has_all_state) {
      tensor.data[rmsprop::grad_avg] = reinterpret_cast<std::byte*>(array.grad_avg);
      tensor.data[rmsprop::momentum_buffer] = reinterpret_cast<std::byte*>(array.momentum_buffer);
    }
    tensor.update = &rule.update;
    tensor.size = array.size;
    tensor.dtype = sizeof(T) == 4 ? rmsprop::DType::float32 : rmsprop::DType::float64;
  }
  return tensors;
}

template <class T>
void measure(benchmark::State& state, const Benchmark& b, double seconds) {
  rmsprop::use_instruction_set(b.instruction_set);
  const Limits<T>& limits = limits_for(*limits_of(b.instruction_set), T());
  const Arrays<T>& arrays = arrays_for<T>(b.workload, b.threads);
  const std::vector<rmsprop::Tensor> tensors = tensors_of(arrays, b.rule);
  const auto elements = static_cast<double>(arrays.elements());

  Contestant step([&] { rmsprop::step(tensors, b.threads); });
  // One thread may be the better choice for little work. A limit is the better one, whatever the engine chooses.
  std::vector<int> shares = {b.threads};
  constexpr double much_work = 1 << 20;
  if (b.threads > 1 && elements < much_work) shares.push_back(1);
  std::vector<Contestant> traffic, divider;
  for (const int n : shares) {
    traffic.emplace_back([&, n] { run_limit(b.rule.has_all_state ? limits.full_traffic : limits.traffic, arrays, n); });
    divider.emplace_back([&, n] { run_limit(limits.divider, arrays, n); });
  }
  const auto best = [](std::vector<Contestant>& contestants) {
    double least = contestants.front().median_seconds();
    for (Contestant& contestant : contestants) least = std::min(least, contestant.median_seconds());
    return least;
  };

  std::vector<Contestant*> contestants = {&step};
  for (std::vector<Contestant>* limit : {&traffic, &divider}) {
    for (Contestant& contestant : *limit) contestants.push_back(&contestant);
  }
  constexpr int least_rounds = 5;
  for (auto _ : state) {
    double spent = 0.0;
    for (int round = 0; round < least_rounds || spent < seconds; ++round) {
      for (Contestant* contestant : contestants) spent += contestant->run_block();
      // Another order in every round: what one leaves in the caches is not always left to the same one.
      std::next_permutation(contestants.begin(), contestants.end(), std::less<>());
    }
    state.SetIterationTime(step.median_seconds());
  }

  const double step_seconds = step.median_seconds();
  state.counters["vs_traffic"] = best(traffic) / step_seconds;
  state.counters["vs_divider"] = best(divider) / step_seconds;
  state.counters["vs_limit"] = std::max(best(traffic), best(divider)) / step_seconds;
  state.counters["ns_per_element"] = step_seconds * 1e9 / elements;
  state.counters["GB_per_s"] = b.rule.accesses * static_cast<double>(sizeof(T)) * elements / step_seconds / 1e9;
}

// ---- The program
// -----------------------------------------------------------------------------------------------------

// Whether --benchmark_filter wants a name, which is matched here as it is printed, without what is appended to it.
class Filter {
 public:
  explicit Filter(std::string pattern) {
    negated_ = pattern.starts_with("-");
    if (negated_) pattern.erase(0, 1);
    if (!pattern.empty() && pattern != "all") regex_ = std::regex(pattern, std::regex::extended);
  }
  bool wants(const std::string& name) const { return !regex_ || std::regex_search(name, *regex_) != negated_; }

 private:
  bool negated_ = false;
  std::optional<std::regex> regex_;
};

// Returns how many there are.
template <class T>
int register_benchmarks(const char* dtype, const Options& options, const Filter& filter) {
  int registered = 0;
  std::vector<int> thread_counts = {1};
  if (options.threads > 1) thread_counts.push_back(options.threads);
  for (const Workload& workload : workloads()) {
    for (const int threads : thread_counts) {
      for (const auto& set : rmsprop::instruction_sets()) {
        if (!set.supported || limits_of(set.name) == nullptr) continue;
        for (const Rule& rule : rules()) {
          const Benchmark b = {rule, std::string(set.name), workload, threads};
          const std::string name = std::string(rule.name) + "/" + dtype + "/" + b.instruction_set +
                                   "/threads:" + std::to_string(threads) + "/" + workload.name;
          if (!filter.wants(name)) continue;
          ++registered;
          benchmark::RegisterBenchmark(name.c_str(),
                                       [b, options](benchmark::State& state) { measure<T>(state, b, options.seconds); })
              ->Iterations(1)  // one iteration is a whole alternation of blocks
              ->UseManualTime()
              ->Unit(benchmark::kMicrosecond);
        }
      }
    }
  }
  return registered;
}

// Leaves away what Google Benchmark appends to every name: the number of iterations and the kind of time.
class Reporter : public benchmark::ConsoleReporter {
 public:
  Reporter() : ConsoleReporter(OO_Tabular) {}

  void ReportRuns(const std::vector<Run>& runs) override {
    std::vector<Run> renamed = runs;
    for (Run& run : renamed) {
      run.run_name.iterations.clear();
      run.run_name.time_type.clear();
    }
    ConsoleReporter::ReportRuns(renamed);
  }
};

// Takes `--name=value` out of the arguments. False if it is there with a value that is not a number above 0.
template <class Number>
bool take_option(int& argc, char** argv, std::string_view name, Number& value) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (!argument.starts_with(name) || argument.substr(name.size(), 1) != "=") continue;
    std::istringstream text{std::string(argument.substr(name.size() + 1))};
    if (!(text >> value) || !text.eof() || !(value > 0)) {
      std::cerr << name << ": got '" << text.str() << "', wanted a number above 0\n";
      return false;
    }
    std::copy(argv + i + 1, argv + argc, argv + i);
    --argc;
    --i;
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!take_option(argc, argv, "--seconds", options.seconds)) return EXIT_FAILURE;
  if (!take_option(argc, argv, "--threads", options.threads)) return EXIT_FAILURE;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return EXIT_FAILURE;

  const Filter filter(benchmark::GetBenchmarkFilter());
  if (register_benchmarks<float>("f32", options, filter) + register_benchmarks<double>("f64", options, filter) == 0) {
    std::cerr << "--benchmark_filter: no benchmark has such a name; --benchmark_list_tests lists the names\n";
    return EXIT_FAILURE;
  }
  Reporter reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter, "all");
  benchmark::Shutdown();
}

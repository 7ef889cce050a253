// What the process runs on: threads and instruction sets.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace rmsprop {

// How many threads a step uses when it is not told. At first the OpenMP default, but never more than the CPUs this
// process may use (affinity mask, cgroup quota). In a child made by fork() every step runs on its own thread, whatever
// is set: the threads of an OpenMP pool do not survive a fork.
int get_num_threads() noexcept;
void set_num_threads(int n);  // throws std::invalid_argument unless 1 <= n <= max_num_threads
inline constexpr int max_num_threads = 1024;

// The CPUs this process may use: the least of the affinity mask and the cgroup quota, at least 1.
int available_cpus() noexcept;

// The OpenMP specification date the engine was built with, such as 201511, or 0 if it was built without.
int openmp_version() noexcept;

struct InstructionSet {
  std::string_view name;  // "x86-64-v4", "x86-64-v3" or "baseline"
  bool supported;         // by this CPU and this operating system
  bool chosen;
};

// The instruction sets this build has kernels for, best first.
std::vector<InstructionSet> instruction_sets();

// Steps use this set from now on. Throws std::invalid_argument if it is unknown or not supported here.
// Every set gives the same bits: the choice is one of speed.
void use_instruction_set(std::string_view name);

// Chooses the set that the environment variable RMSPROP_ISA names, or the best if it is unset or empty.
// Throws std::invalid_argument as above, naming the variable.
void use_instruction_set_from_environment();

}  // namespace rmsprop

/// @file
/// Threads and instruction sets of the process. Every function here may be called from any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace rmsprop {

/// The number of threads of a step without an explicit number.
///
/// The number given to set_num_threads(). Without one, what OpenMP would use in the calling thread (OMP_NUM_THREADS, or
/// what omp_set_num_threads() has set), but never more than the CPUs this process may use (affinity mask, cgroup quota,
/// as they were at the first call). In a child made by fork() every step runs on the calling thread, whatever is set:
/// the threads of an OpenMP pool do not survive a fork.
int get_num_threads() noexcept;

/// The largest number of threads that can be set.
inline constexpr int max_num_threads = 1024;

/// Sets the number of threads of a step without an explicit number, for the whole process and from the next step on.
/// @throws std::invalid_argument unless 1 <= n <= max_num_threads.
void set_num_threads(int n);

/// How a step uses the threads that it may have.
enum class ThreadUse {
  fixed,    ///< Always.
  adaptive  ///< As long as they help: where other programs use the CPUs, the calling thread alone is often faster.
};

/// How steps use threads. At first adaptive. Their bits do not depend on it.
ThreadUse thread_use() noexcept;

/// Steps of the whole process use threads in this way from now on.
void set_thread_use(ThreadUse use) noexcept;

/// Chooses what the environment variable RMSPROP_THREADS names, "adaptive" or "fixed"; without effect if it is unset or
/// empty. The Python package does so when it is imported, a C++ program only if it calls this.
/// @throws std::invalid_argument if it names anything else.
void set_thread_use_from_environment();

/// The CPUs this process may use: the least of the affinity mask and the cgroup quota, at least 1. Reads system files.
int available_cpus() noexcept;

/// The date of the OpenMP specification that the engine was built with, such as 201511, or 0 if it was built without
/// OpenMP, so that every step runs on the calling thread.
int openmp_version() noexcept;

/// An instruction set that this build has kernels for.
struct InstructionSet {
  std::string_view name;  ///< "x86-64-v4", "x86-64-v3" or "baseline".
  bool supported;         ///< By this CPU and this operating system.
  bool chosen;            ///< Steps use it.
};

/// The instruction sets this build has kernels for, best first.
std::vector<InstructionSet> instruction_sets();

/// Steps of the whole process use this set from now on; at first it is the best one. Every set gives the same bits;
/// only the speed differs.
/// @throws std::invalid_argument if it is unknown or not supported here.
void use_instruction_set(std::string_view name);

/// Chooses the set that the environment variable RMSPROP_ISA names; without effect if it is unset or empty. The Python
/// package does so when it is imported, a C++ program only if it calls this.
/// @throws std::invalid_argument as use_instruction_set() does, naming the variable.
void use_instruction_set_from_environment();

}  // namespace rmsprop

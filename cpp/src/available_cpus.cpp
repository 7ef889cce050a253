// The number of CPUs that this process may use.

#include <algorithm>
#include <cmath>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>

#include "rmsprop/runtime.hpp"

#if defined(__linux__)
#include <sched.h>
#endif

namespace rmsprop {
namespace {

#if defined(__linux__)

// CPUs per period from a pair of cgroup files or a line of one; infinity without a limit.
double ratio(const std::string& quota, double period) {
  std::istringstream text(quota);
  double microseconds = 0.0;
  if (!(text >> microseconds) || microseconds <= 0.0 || period <= 0.0) return INFINITY;  // "max", "-1", no file
  return microseconds / period;
}

double quota_v2(const std::string& folder) {
  std::string quota;
  double period = 0.0;
  std::ifstream(folder + "/cpu.max") >> quota >> period;
  return ratio(quota, period);
}

double quota_v1(const std::string& folder) {
  std::string quota;
  double period = 0.0;
  std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;
  std::ifstream(folder + "/cpu.cfs_period_us") >> period;
  return ratio(quota, period);
}

// The limit of a group is the least along the path to its root. Inside a container the path may lie outside of what is
// mounted; then the mount's root, where the walk ends, is the container's own group.
double least_along_path(const std::string& mount, std::string path, double (*quota)(const std::string&)) {
  double least = quota(mount);
  while (!path.empty() && path != "/") {
    least = std::min(least, quota(mount + path));
    path.erase(path.rfind('/'));
  }
  return least;
}

double cgroup_cpus() {
  double least = INFINITY;
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // hierarchy:controllers:path
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty()) {
      least = std::min(least, least_along_path("/sys/fs/cgroup", path, quota_v2));
    } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
      least = std::min(least, least_along_path("/sys/fs/cgroup/cpu", path, quota_v1));
    }
  }
  return least;
}

#else

double cgroup_cpus() { return INFINITY; }

#endif

#if defined(__linux__)

// std::thread::hardware_concurrency() need not respect the affinity mask, and glibc's does not.
int affinity_cpus() {
  for (int cpus = 1024; cpus <= 1 << 20; cpus *= 2) {  // the kernel refuses a set that is smaller than its own
    const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> set(CPU_ALLOC(cpus), [](cpu_set_t* s) { CPU_FREE(s); });
    const std::size_t size = CPU_ALLOC_SIZE(cpus);
    if (set != nullptr && sched_getaffinity(0, size, set.get()) == 0) return CPU_COUNT_S(size, set.get());
  }
  return static_cast<int>(std::thread::hardware_concurrency());
}

#else

int affinity_cpus() { return static_cast<int>(std::thread::hardware_concurrency()); }

#endif

}  // namespace

int available_cpus() noexcept {
  try {
    const double affinity = std::max(1, affinity_cpus());
    return static_cast<int>(std::max(1.0, std::ceil(std::min(affinity, cgroup_cpus()))));
  } catch (...) {
    return 1;
  }
}

}  // namespace rmsprop

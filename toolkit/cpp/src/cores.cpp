// SPDX-License-Identifier: Apache-2.0
#include "cores.hpp"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <sstream>

namespace gantk {
namespace {

constexpr double unlimited = std::numeric_limits<double>::infinity();

double quota_of(const std::string& group) {
  double quota = 0.0, period = 0.0;
  if (std::ifstream second(group + "/cpu.max"); second) {
    second >> quota >> period;
  } else {  // The first version of control groups.
    std::ifstream(group + "/cpu.cfs_quota_us") >> quota;
    std::ifstream(group + "/cpu.cfs_period_us") >> period;
  }
  return quota > 0.0 && period > 0.0 ? quota / period : unlimited;  // `max` is read as 0.
}

bool has_cpu(const std::string& controllers) {
  std::istringstream names(controllers);
  for (std::string name; std::getline(names, name, ',');) {
    if (name == "cpu") return true;
  }
  return false;
}

}  // namespace

int core_count() {
  cpu_set_t set;
  const int allowed = sched_getaffinity(0, sizeof set, &set) == 0 ? std::max(CPU_COUNT(&set), 1) : 1;
  return static_cast<int>(std::ceil(std::min<double>(allowed, quota())));
}

double quota(const std::string& root, const std::string& groups) {
  double least = unlimited;
  std::ifstream lines(groups);
  for (std::string number, controllers, path;
       std::getline(lines, number, ':') && std::getline(lines, controllers, ':') && std::getline(lines, path);) {
    if (number != "0" && !has_cpu(controllers)) continue;
    const std::string mount = number == "0" ? root : root + "/cpu";
    // In a container the mount is its own group already, whatever the path says.
    for (;; path.erase(path.rfind('/'))) {
      least = std::min(least, quota_of(mount + path));
      if (path.empty() || path.front() != '/') break;
    }
  }
  return least;
}

}  // namespace gantk

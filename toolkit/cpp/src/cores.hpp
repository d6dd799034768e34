// SPDX-License-Identifier: Apache-2.0
// How many cores this process may use: more threads than that wait for one another instead of working.
#pragma once

#include <string>

namespace gantk {

// The cores that this process may run on, or fewer where it has a quota of their time.
int core_count();

// The cores' worth of time that control groups leave, as `docker run --cpus` and Kubernetes' limits set them; infinite
// where there is no limit, or nothing is known. `root` is where the groups are mounted, of either version, and
// `groups` the file that says which ones the process is in.
double quota(const std::string& root = "/sys/fs/cgroup", const std::string& groups = "/proc/self/cgroup");

}  // namespace gantk

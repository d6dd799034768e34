// SPDX-License-Identifier: Apache-2.0
// The backends of this process, in the order in which "auto" tries them.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "gantk/backend.hpp"

namespace gantk {

struct Opened {
  const Backend* backend;
  BackendStatus status;
  Device device;
  std::string name, precision, file_precision;
  Interface interface;
  std::shared_ptr<const Session> session;
  std::vector<std::pair<std::string, std::string>> passed_over;
};

// Opens a bundle with the backend that the options name, or with the first that does.
Opened open_bundle(const std::string& path, const Options& options);

}  // namespace gantk

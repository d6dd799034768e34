// SPDX-License-Identifier: Apache-2.0
#include "gantk/error.hpp"

#include <utility>

namespace gantk {

Error::Error(std::string what, std::string where, std::string hint, ErrorKind kind)
    : content_(std::make_shared<const Content>(Content{std::move(what), std::move(where), std::move(hint), kind})) {}

std::string Error::text() const {
  std::string text = content_->what;
  if (!where().empty()) text += "\n  in: " + where();
  if (!hint().empty()) text += "\n  hint: " + hint();
  return text;
}

}  // namespace gantk

// SPDX-License-Identifier: Apache-2.0
// The errors gantk throws: what went wrong, where, and what to do about it.
#pragma once

#include <exception>
#include <memory>
#include <string>

#include "gantk/export.hpp"

namespace gantk {

// Numbered as the exit codes of the `gantk` command.
enum class ErrorKind {
  failed = 1,           // an input, a file or a machine is not as it must be
  usage = 2,            // an option whose value is not among those allowed
  backend_missing = 3,  // a backend that was asked for is not here, or cannot work on this machine
};

// Something a user can act on. Everything that gantk itself throws is one; copying it never throws, and moving copies.
class GANTK_API Error : public std::exception {
 public:
  // `what`: one sentence that names the value received and the values allowed. `where`: the file, layer, tensor or
  // option at fault. `hint`: what to do next. The last two may be empty.
  explicit Error(std::string what, std::string where = {}, std::string hint = {}, ErrorKind kind = ErrorKind::failed);
  Error(const Error&) noexcept = default;
  Error& operator=(const Error&) noexcept = default;

  const char* what() const noexcept override { return content_->what.c_str(); }
  const std::string& where() const noexcept { return content_->where; }
  const std::string& hint() const noexcept { return content_->hint; }
  ErrorKind kind() const noexcept { return content_->kind; }

  // All of it, as it is shown to people: the sentence, then a line each for `in:` and `hint:`.
  std::string text() const;

 private:
  struct Content {
    std::string what, where, hint;
    ErrorKind kind;
  };
  std::shared_ptr<const Content> content_;
};

}  // namespace gantk

// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

struct evp_md_ctx_st;  // OpenSSL's

namespace gantk {

// SHA-256 (FIPS 180-4) of bytes that come in parts, by libcrypto.
class Sha256 {
 public:
  Sha256();
  void add(std::span<const std::byte> part);
  std::string bytes();  // once, at the end: 32 of them
  std::string hex();    // or this: 64 lower-case digits

 private:
  std::unique_ptr<evp_md_ctx_st, void (*)(evp_md_ctx_st*)> context_;
};

}  // namespace gantk

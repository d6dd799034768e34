// SPDX-License-Identifier: Apache-2.0
// A bundle: a folder `NAME.gantk/` with a network in every exported form.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "gantk/export.hpp"
#include "gantk/manifest.hpp"

namespace gantk {

// The contents of a file.
class Bytes {
 public:
  Bytes() = default;
  explicit Bytes(std::size_t size) : data_(std::make_unique_for_overwrite<std::byte[]>(size)), size_(size) {}

  std::byte* data() noexcept { return data_.get(); }
  std::size_t size() const noexcept { return size_; }
  std::span<const std::byte> view() const noexcept { return {data_.get(), size_}; }
  std::string_view text() const noexcept { return {reinterpret_cast<const char*>(data_.get()), size_}; }

 private:
  std::unique_ptr<std::byte[]> data_;
  std::size_t size_ = 0;
};

// A bundle on disk whose manifest has been read; its files are checked when they are.
class GANTK_API Bundle {
 public:
  // Throws Error where there is no such folder, it is no bundle, or its manifest is not valid.
  static Bundle read(const std::filesystem::path& root);

  const std::string& root() const noexcept { return root_; }
  const Manifest& manifest() const noexcept { return manifest_; }

  // The bytes of a file, after its length and hash have been checked against the manifest; throws Error where it is
  // missing, leads out of the bundle, or is not the file that was exported.
  Bytes read_file(const FileRef& ref) const;

  std::string manifest_path() const;
  std::string path_of(const FileRef& ref) const;

 private:
  Bundle(std::string root, Manifest manifest) : root_(std::move(root)), manifest_(std::move(manifest)) {}

  std::string root_;
  Manifest manifest_;
};

}  // namespace gantk

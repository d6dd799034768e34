// SPDX-License-Identifier: Apache-2.0
#include "gantk/bundle.hpp"

#include "file.hpp"
#include "fileref.hpp"
#include "gantk/error.hpp"
#include "sha256.hpp"

namespace gantk {
namespace {

constexpr std::int64_t manifest_limit_bytes = 16 << 20;

void check_folder(const std::string& root, const std::string& manifest) {
  const std::string export_hint = "gantk export RUN -o X.gantk";
  if (const FileKind kind = kind_of(root, root); kind != FileKind::folder) {
    const char* found = kind == FileKind::missing ? "does not exist" : "is a file";
    throw Error("`" + root + "` " + found + "; a bundle is a folder", root, export_hint);
  }
  if (kind_of(manifest, root) != FileKind::file) {
    throw Error("`" + root + "` is not a bundle: it has no " + std::string(manifest_name), root, export_hint);
  }
}

}  // namespace

Bundle Bundle::read(const std::filesystem::path& path) {
  const std::string root = tidy(path.string());
  const std::string manifest = tidy(root + "/" + std::string(manifest_name));
  check_folder(root, manifest);
  const Bytes bytes = read_bytes(manifest, manifest_limit_bytes);
  try {
    return Bundle(root, Manifest::parse(bytes.text()));
  } catch (const Error& error) {
    throw Error(error.what(), manifest, error.hint().empty() ? "export the bundle again" : error.hint());
  }
}

std::string Bundle::manifest_path() const { return tidy(root_ + "/" + std::string(manifest_name)); }

std::string Bundle::path_of(const FileRef& ref) const { return tidy(root_ + "/" + ref.path); }

Bytes Bundle::read_file(const FileRef& ref) const {
  const std::string path = path_of(ref);
  if (!leads_inside(path, root_)) throw Error("`" + ref.path + "` is a link that leads out of the bundle", path);
  const std::string changed = "the file was changed or cut after the export; export the bundle again";
  Sha256 hash;
  Bytes bytes = read_bytes(path, ref.size_bytes, &hash, changed);
  const std::string digest = hash.hex();
  if (digest != ref.sha256) {
    throw Error("`" + ref.path + "` has sha256 " + digest.substr(0, 12) + "... and " + std::to_string(bytes.size()) +
                    " bytes; the manifest says " + ref.sha256.substr(0, 12) + "... and " +
                    std::to_string(ref.size_bytes),
                path, changed);
  }
  return bytes;
}

}  // namespace gantk

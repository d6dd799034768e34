// SPDX-License-Identifier: Apache-2.0
#include "file.hpp"

#include <fcntl.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string_view>

#include "gantk/error.hpp"
#include "sha256.hpp"
#include "text.hpp"

namespace gantk {
namespace {

constexpr std::size_t block_bytes = std::size_t{1} << 20;

[[noreturn]] void fail(const std::string& path, int number, const char* doing = "read") {
  const char* hint = number == EACCES || number == EPERM || number == EROFS
                         ? "choose a place that you may write to, or change its permissions"
                     : number == ENOENT ? "check the path"
                                        : "";
  throw Error(std::string("cannot ") + doing + " `" + path + "`: " + std::strerror(number), path, hint);
}

class Descriptor {
 public:
  // Without O_NONBLOCK a named pipe with no writer would block here for ever.
  explicit Descriptor(const std::string& path) : number_(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)) {
    if (number_ < 0) fail(path, errno);
  }
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { ::close(number_); }
  operator int() const noexcept { return number_; }

 private:
  int number_;
};

// Up to `size` bytes; fewer only where the file ends.
std::size_t read_block(int file, std::byte* data, std::size_t size, const std::string& path) {
  std::size_t done = 0;
  while (done < size) {
    const ssize_t count = ::read(file, data + done, size - done);
    if (count < 0 && errno != EINTR) fail(path, errno);
    if (count == 0) break;
    done += count > 0 ? static_cast<std::size_t>(count) : 0;
  }
  return done;
}

// Writes, and waits until it is on the disk; the number of what went wrong, or 0.
int write_synced(int file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = ::write(file, text.data(), text.size());
    if (count < 0 && errno != EINTR) return errno;
    text.remove_prefix(count > 0 ? static_cast<std::size_t>(count) : 0);
  }
  return ::fsync(file) == 0 ? 0 : errno;
}

// The home of this process's user; empty where it has none.
std::string home_folder() {
  if (const char* home = std::getenv("HOME")) return home;
  std::array<char, 4096> text;
  passwd entry{}, *user = nullptr;
  const bool found = ::getpwuid_r(::getuid(), &entry, text.data(), text.size(), &user) == 0 && user != nullptr;
  return found ? user->pw_dir : "";
}

std::string find_cache_folder() {
  const char* base = std::getenv("XDG_CACHE_HOME");
  return (base != nullptr && *base != '\0' ? base : home_folder() + "/.cache") + "/gantk";
}

}  // namespace

std::string tidy(const std::string& path) {
  if (path.find('\0') != path.npos) throw Error(repr(path) + " is not a path: it holds a NUL");
  std::string tidied = path.starts_with('/') ? "/" : "";
  for (const auto& part : std::filesystem::path(path).relative_path()) {
    if (part.empty() || part == ".") continue;
    if (!tidied.empty() && !tidied.ends_with('/')) tidied += '/';
    tidied += part.string();
  }
  return tidied.empty() ? "." : tidied;
}

FileKind kind_of(const std::string& path, const std::string& shown) {
  struct stat status;
  if (::stat(path.c_str(), &status) == 0) {
    return S_ISDIR(status.st_mode) ? FileKind::folder : S_ISREG(status.st_mode) ? FileKind::file : FileKind::other;
  }
  if (errno != ENOENT && errno != ENOTDIR && errno != ELOOP) fail(shown, errno);
  return FileKind::missing;
}

bool leads_inside(const std::string& path, const std::string& folder) {
  std::error_code fault;
  const auto inner = std::filesystem::weakly_canonical(path, fault);
  if (fault) return false;
  const auto outer = std::filesystem::weakly_canonical(folder, fault);
  return !fault && std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
}

Bytes read_bytes(const std::string& path, std::int64_t limit_bytes, Sha256* hash, const std::string& hint) {
  const Descriptor file(path);
  struct stat status;
  if (::fstat(file, &status) != 0) fail(path, errno);
  if (S_ISDIR(status.st_mode)) fail(path, EISDIR);
  if (!S_ISREG(status.st_mode)) throw Error("`" + path + "` is not a regular file", path);
  if (status.st_size > limit_bytes) {
    throw Error("`" + path + "` has " + std::to_string(status.st_size) + " bytes; at most " +
                    std::to_string(limit_bytes) + " are expected here",
                path, hint);
  }
  Bytes bytes(static_cast<std::size_t>(status.st_size));
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t wanted = std::min(block_bytes, bytes.size() - at);
    const std::size_t count = read_block(file, bytes.data() + at, wanted, path);
    if (hash != nullptr) hash->add({bytes.data() + at, count});
    at += count;
    if (count < wanted) throw Error("`" + path + "` was cut while it was read", path);
  }
  return bytes;
}

void write_text(const std::string& path, const std::string& text) {
  const std::filesystem::path target(path);
  std::error_code fault;
  std::filesystem::create_directories(target.parent_path(), fault);
  if (fault) fail(path, fault.value(), "write");
  // The suffix of Python's unfinished files comes after the part that makes the name a new one.
  constexpr std::string_view suffix = ".partial";
  std::string partial = (target.parent_path() / ("." + target.filename().string())).string() + ".XXXXXX";
  partial += suffix;
  const int number = ::mkostemps(partial.data(), static_cast<int>(suffix.size()), O_CLOEXEC);
  if (number < 0) fail(path, errno, "write");
  const Descriptor file(number);
  int status = write_synced(file, text);
  if (status == 0 && ::rename(partial.c_str(), path.c_str()) != 0) status = errno;
  if (status == 0) return;
  ::unlink(partial.c_str());
  fail(path, status, "write");
}

const std::string& cache_folder() {
  static const auto& folder = *new std::string(find_cache_folder());
  return folder;
}

}  // namespace gantk

// SPDX-License-Identifier: Apache-2.0
// What a backend is: for those who add one. Applications want runner.hpp alone.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "gantk/bundle.hpp"
#include "gantk/export.hpp"
#include "gantk/runner.hpp"
#include "gantk/version.hpp"

namespace gantk {

// A file before a backend has it: its bytes, checked, and what the manifest says of it.
struct Model {
  Bytes bytes;
  std::string where;  // its path, for errors
  std::string name, precision, form;
  Interface interface;
  std::optional<Engine> engine = {};  // what the manifest says of an engine; nothing of an ONNX file
  bool channels_last = false;  // whether it was measured faster where a backend lays pictures out so
  bool is_wholly_native = false;  // whether gantk's native operators are all that is heavy in it
  bool has_native_form = false;   // whether it is, or its bundle has a file of its precision that is
};

// What a backend says of itself on this machine.
struct BackendStatus {
  std::string version;                 // empty where it is not installed
  std::vector<Device> devices;         // where it can run here, best first; empty where it does not work
  std::string reason = {}, hint = {};  // why it does not work, and what to do about it
  std::string target = {};             // the architecture of the GPU that engines run on, e.g. "sm_89"
};

// One output of a run: written to `memory` where that is given, else `fresh` is made.
struct Slot {
  std::size_t index;         // in the model's outputs
  MutableTensorView memory;  // its `data` is null where a fresh array is wanted
  Tensor fresh;
};

// A run that is bound to memory.
class Binding {
 public:
  virtual ~Binding() = default;

  // Runs on what the memory holds now. One thread at a time calls it, beside others that run the session.
  virtual void run() = 0;
};

// A network that a backend has loaded.
class Session {
 public:
  virtual ~Session() = default;

  // Runs on inputs that were checked, in the order of the model's. Threads may call it at the same time. Throws
  // Error whose `what` is the vendor's message.
  virtual void run(std::span<const TensorView> inputs, std::span<Slot> outputs) const = 0;

  // Prepares for runs on the same memory again and again, which all outputs have been given; null where `run` is as
  // good. The session, and what the spans view, outlive what it makes.
  virtual std::unique_ptr<Binding> bind(std::span<const TensorView> inputs, std::span<Slot> outputs) const {
    (void)inputs, (void)outputs;
    return nullptr;
  }

  // The GPU memory that it holds, where it can tell. Threads may run it meanwhile.
  virtual std::optional<MemoryBytes> memory_bytes() const noexcept { return std::nullopt; }
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;
  virtual BackendStatus probe() const = 0;

  // Whether it runs the engines of a bundle that were built for its name and version, rather than the ONNX files.
  virtual bool runs_engines() const { return false; }

  // What a file of a precision is computed in on a device, or nothing where it cannot be.
  virtual std::optional<std::string> executed(const std::string& precision, Device device) const = 0;

  // The same of a file in which gantk's native operators are all that is heavy, where there are such.
  virtual std::optional<std::string> executed_natively(const std::string& precision, Device device) const {
    return executed(precision, device);
  }
  virtual std::unique_ptr<Session> open(Model model, Device device, const Options& options) const = 0;
};

// Adds a backend behind those there are, for the whole process. Thread-safe; a name that is taken is an Error.
GANTK_API void add_backend(std::unique_ptr<Backend> backend);

// Loads a shared library and adds the backend in it, which `GANTK_BACKEND` exports there. It must be of this version
// of gantk. The libraries that the environment variable GANTK_BACKENDS names, with colons between them, are loaded
// when the first bundle is opened; programs that run with more rights than their user ignore it.
GANTK_API void load_backend(const std::string& library);

}  // namespace gantk

// In one source file of a library that `load_backend` loads; `make` yields its std::unique_ptr<gantk::Backend>.
#define GANTK_BACKEND(make)                                                                     \
  extern "C" __attribute__((visibility("default"))) const char* gantk_backend_version() {       \
    return gantk::version;                                                                      \
  }                                                                                             \
  extern "C" __attribute__((visibility("default"))) gantk::Backend* gantk_make_backend() {      \
    return make().release();                                                                    \
  }

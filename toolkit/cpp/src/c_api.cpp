// SPDX-License-Identifier: Apache-2.0
// The C API over the C++ one. Every function that can fail does its work inside `guard`, which lets nothing out.
#include <algorithm>
#include <new>
#include <tuple>
#include <utility>

#include "gantk/gantk.h"
#include "gantk/runner.hpp"
#include "gantk/version.hpp"

struct gantk_error {
  gantk::Error error;
  std::string text;
};

struct gantk_runner {
  gantk::Runner runner;
};

struct gantk_outputs {
  gantk::Outputs outputs;
};

struct gantk_bound {
  gantk::Bound bound;
};

static_assert(GANTK_MOST_AXES == gantk::Shape::most_axes);
static_assert(GANTK_BOOL == static_cast<int>(gantk::DType::boolean));
static_assert(GANTK_CUDA == static_cast<int>(gantk::Device::cuda));

namespace {

// Returned where there is no memory left for another one; made when the library is loaded, and never freed.
gantk_error out_of_memory{gantk::Error("there is not enough memory"), "there is not enough memory"};

gantk_error *as_error(const gantk::Error &error) { return new gantk_error{error, error.text()}; }

template <class Work>
gantk_error *guard(Work work) noexcept {
  try {
    try {
      work();
      return nullptr;
    } catch (const gantk::Error &error) {
      return as_error(error);
    } catch (const std::bad_alloc &) {
      return &out_of_memory;
    } catch (const std::exception &error) {
      return as_error(gantk::Error(error.what()));
    } catch (...) {
      return as_error(gantk::Error("a library threw what is no exception"));
    }
  } catch (...) {
    return &out_of_memory;
  }
}

void want(const void *pointer, const char *name) {
  if (pointer == nullptr) throw gantk::Error(std::string(name) + " is NULL", name, {}, gantk::ErrorKind::usage);
}

std::string text(const char *value) { return value == nullptr ? "" : value; }

gantk::Options options_of(const gantk_options *given) {
  const gantk_options options = given == nullptr ? gantk_options_default() : *given;
  return {text(options.backend), text(options.precision), text(options.device), text(options.form),
          text(options.operators), options.threads, options.stream};
}

std::string_view checked_name(const gantk_tensor &tensor) {
  want(tensor.name, "a tensor's name");
  return tensor.name;
}

gantk::MutableTensorView view_of(const gantk_tensor &tensor) {
  const auto fail = [&](const char *what, int value) {
    throw gantk::Error("tensor '" + text(tensor.name) + "' has " + what + " " + std::to_string(value), "gantk_tensor",
                       {}, gantk::ErrorKind::usage);
  };
  if (tensor.dtype < 0 || tensor.dtype > GANTK_BOOL) fail("dtype", tensor.dtype);
  if (tensor.device < 0 || tensor.device > GANTK_CUDA) fail("device", tensor.device);
  if (tensor.rank < 0 || tensor.rank > GANTK_MOST_AXES) fail("rank", tensor.rank);
  const gantk::Shape shape(std::span(tensor.shape, static_cast<std::size_t>(tensor.rank)));
  return {tensor.data, static_cast<gantk::DType>(tensor.dtype), shape, static_cast<gantk::Device>(tensor.device)};
}

// Entries of a thread's own vector, so that runs into the caller's memory allocate nothing in the steady state.
template <class Entry>
std::span<const Entry> entries_of(const gantk_tensor *tensors, std::size_t count) {
  thread_local std::vector<Entry> entries;
  entries.clear();
  if (count > 0) want(tensors, "the list of tensors");
  for (std::size_t i = 0; i < count; ++i) entries.push_back({checked_name(tensors[i]), view_of(tensors[i])});
  return entries;
}

gantk_spec describe(const std::vector<gantk::TensorSpec> &specs, std::size_t index) {
  gantk_spec described{};
  if (index >= specs.size()) return described;
  const gantk::TensorSpec &spec = specs[index];
  described.name = spec.name.c_str();
  described.layout = spec.layout.c_str();
  described.dtype = static_cast<std::int32_t>(spec.dtype);
  described.rank = static_cast<std::int32_t>(spec.shape.size());
  described.has_range = spec.range.has_value();
  if (spec.range) std::tie(described.low, described.high) = *spec.range;
  described.smallest = spec.smallest;
  for (std::size_t axis = 0; axis < spec.shape.size(); ++axis) {
    const auto *symbol = std::get_if<std::string>(&spec.shape[axis]);
    described.shape[axis] = symbol != nullptr ? -1 : std::get<std::int64_t>(spec.shape[axis]);
    described.symbols[axis] = symbol != nullptr ? symbol->c_str() : nullptr;
  }
  return described;
}

}  // namespace

extern "C" {

uint32_t gantk_abi_version(void) { return GANTK_ABI_VERSION; }
const char *gantk_version(void) { return gantk::version; }
gantk_options gantk_options_default(void) { return {"auto", nullptr, nullptr, nullptr, nullptr, 0, 0, nullptr}; }

gantk_error_kind gantk_error_get_kind(const gantk_error *error) {
  return static_cast<gantk_error_kind>(error->error.kind());
}
const char *gantk_error_what(const gantk_error *error) { return error->error.what(); }
const char *gantk_error_where(const gantk_error *error) { return error->error.where().c_str(); }
const char *gantk_error_hint(const gantk_error *error) { return error->error.hint().c_str(); }
const char *gantk_error_text(const gantk_error *error) { return error->text.c_str(); }
void gantk_error_free(gantk_error *error) {
  if (error != &out_of_memory) delete error;
}

gantk_error *gantk_runner_open(const char *path, const gantk_options *options, gantk_runner **runner) {
  return guard([&] {
    want(path, "path");
    want(runner, "runner");
    *runner = new gantk_runner{gantk::Runner::open(path, options_of(options))};
  });
}
void gantk_runner_free(gantk_runner *runner) { delete runner; }

const char *gantk_runner_name(const gantk_runner *runner) { return runner->runner.name().c_str(); }
const char *gantk_runner_backend(const gantk_runner *runner) { return runner->runner.backend().c_str(); }
const char *gantk_runner_version(const gantk_runner *runner) { return runner->runner.version().c_str(); }
const char *gantk_runner_precision(const gantk_runner *runner) { return runner->runner.precision().c_str(); }
const char *gantk_runner_file_precision(const gantk_runner *runner) { return runner->runner.file_precision().c_str(); }
gantk_device gantk_runner_device(const gantk_runner *runner) {
  return static_cast<gantk_device>(runner->runner.device());
}

gantk_memory gantk_runner_memory_bytes(const gantk_runner *runner) {
  const auto [engine, activations, buffers] = runner->runner.memory_bytes().value_or(gantk::MemoryBytes{});
  return {engine, activations, buffers};
}

size_t gantk_runner_input_count(const gantk_runner *runner) { return runner->runner.inputs().size(); }
size_t gantk_runner_output_count(const gantk_runner *runner) { return runner->runner.outputs().size(); }
gantk_spec gantk_runner_input(const gantk_runner *runner, size_t index) {
  return describe(runner->runner.inputs(), index);
}
gantk_spec gantk_runner_output(const gantk_runner *runner, size_t index) {
  return describe(runner->runner.outputs(), index);
}

gantk_error *gantk_runner_run(const gantk_runner *runner, const gantk_tensor *inputs, size_t input_count,
                              gantk_outputs **outputs) {
  return guard([&] {
    want(runner, "runner");
    want(outputs, "outputs");
    *outputs = new gantk_outputs{runner->runner.run(entries_of<gantk::Feed>(inputs, input_count))};
  });
}

gantk_error *gantk_runner_run_into(const gantk_runner *runner, const gantk_tensor *inputs, size_t input_count,
                                   const gantk_tensor *outputs, size_t output_count) {
  return guard([&] {
    want(runner, "runner");
    runner->runner.run(entries_of<gantk::Feed>(inputs, input_count), entries_of<gantk::Target>(outputs, output_count));
  });
}

gantk_error *gantk_runner_bind(const gantk_runner *runner, const gantk_tensor *inputs, size_t input_count,
                               const gantk_tensor *outputs, size_t output_count, gantk_bound **bound) {
  return guard([&] {
    want(runner, "runner");
    want(bound, "bound");
    *bound = new gantk_bound{runner->runner.bind(entries_of<gantk::Feed>(inputs, input_count),
                                                 entries_of<gantk::Target>(outputs, output_count))};
  });
}

gantk_error *gantk_bound_run(gantk_bound *bound) {
  return guard([&] {
    want(bound, "bound");
    bound->bound.run();
  });
}
void gantk_bound_free(gantk_bound *bound) { delete bound; }

size_t gantk_outputs_count(const gantk_outputs *outputs) { return outputs->outputs.size(); }
gantk_tensor gantk_outputs_get(const gantk_outputs *outputs, size_t index) {
  gantk_tensor tensor{};
  if (index >= outputs->outputs.size()) return tensor;
  const auto &[name, held] = *(outputs->outputs.begin() + static_cast<std::ptrdiff_t>(index));
  const gantk::TensorView view = held.view();
  tensor.name = name.c_str();
  tensor.data = const_cast<void *>(view.data);
  tensor.dtype = static_cast<std::int32_t>(view.dtype);
  tensor.device = static_cast<std::int32_t>(view.device);
  tensor.rank = static_cast<std::int32_t>(view.shape.rank());
  std::copy(view.shape.sizes().begin(), view.shape.sizes().end(), tensor.shape);
  return tensor;
}
void gantk_outputs_free(gantk_outputs *outputs) { delete outputs; }

}  // extern "C"

// SPDX-License-Identifier: Apache-2.0
#include "onnxruntime/gpu_session.hpp"

#include <algorithm>
#include <mutex>
#include <optional>

#include "cuda.hpp"
#include "onnxruntime/network.hpp"
#include "onnxruntime/settings.hpp"
#include "staging.hpp"
#include "text.hpp"

namespace gantk::onnxruntime {
namespace {

// Of arrays in GPU memory: kernels read so many bytes at once, and do not look (onnxruntime#15054).
constexpr std::size_t alignment = 16;

// The size of an axis as the inputs tell it; nothing where the run alone does.
std::optional<std::int64_t> told_size(const Size& size, const Interface& interface,
                                      std::span<const TensorView> inputs) {
  if (const auto* count = std::get_if<std::int64_t>(&size)) return *count;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const auto& sizes = interface.inputs[i].shape;
    const auto found = std::find(sizes.begin(), sizes.end(), size);
    if (found != sizes.end()) return inputs[i].shape[static_cast<std::size_t>(found - sizes.begin())];
  }
  return std::nullopt;
}

// Whether the inputs' shapes tell those of the outputs.
bool tells_sizes(const Interface& interface) {
  const std::vector<TensorView> any(interface.inputs.size());
  return std::all_of(interface.outputs.begin(), interface.outputs.end(), [&](const TensorSpec& output) {
    return std::all_of(output.shape.begin(), output.shape.end(),
                       [&](const Size& size) { return told_size(size, interface, any).has_value(); });
  });
}

// Whether operators read all inputs in GPU memory. What one wants in main memory, as Clip its limits, is copied when it
// is bound, and a graph keeps what it was then. Headers before those of 1.23 cannot ask.
bool reads_on_gpu([[maybe_unused]] const Ort::Session& session) {
#if ORT_API_VERSION >= 23
  const auto places = session.GetMemoryInfoForInputs();
  return std::none_of(places.begin(), places.end(),
                      [](const auto& place) { return place.GetDeviceType() == OrtMemoryInfoDeviceType_CPU; });
#else
  return false;
#endif
}

class GpuSession : public Session {
 public:
  GpuSession(const Model& model, const Options& options);
  ~GpuSession() override;
  void run(std::span<const TensorView> inputs, std::span<Slot> slots) const override;
  std::unique_ptr<Binding> bind(std::span<const TensorView> inputs, std::span<Slot> slots) const override;

 private:
  class Bound;

  void run_unbound(std::span<const TensorView> inputs, std::span<Slot> slots) const;
  void run_staged(std::span<const TensorView> inputs, std::span<Slot> slots) const;
  void make_fresh(std::span<const TensorView> inputs, std::span<Slot> slots) const;
  Ort::IoBinding bound(Staging& staging, std::span<const TensorView> inputs, std::span<Slot> slots) const;
  void enqueue(const Ort::IoBinding& binding, Staging& staging, std::span<const TensorView> inputs,
               std::span<Slot> slots) const;
  template <class Work>
  void run_between(Staging& staging, std::span<const TensorView> inputs, std::span<Slot> slots, Work work) const;

  cuda::StreamHandle callers_;  // null: CUDA's default stream
  std::optional<cuda::Stream> stream_;
  std::optional<cuda::Order> order_;
  std::optional<Network> network_;
  bool is_bindable_, captures_;
  Ort::RunOptions quiet_;  // The session is not to wait for the GPU after a run.
  mutable std::optional<Staging> staging_;
  mutable std::mutex turn_;  // The provider has one set of library handles for its stream.
};

GpuSession::GpuSession(const Model& model, const Options& options)
    : callers_(static_cast<cuda::StreamHandle>(options.stream)) {
  const cuda::Current current;
  stream_.emplace(nullptr, cuda::Stream::Kind::waits_for_none);
  order_.emplace();
  try {
    network_.emplace(model, options, *stream_);
  } catch (...) {
    order_.reset(), stream_.reset();  // While there is a current context; members would go after it.
    throw;
  }
  is_bindable_ = tells_sizes(network_->interface) && reads_on_gpu(network_->session);
  captures_ = repeats_itself(model);
  quiet_.AddConfigEntry("disable_synchronize_execution_providers", "1");
  staging_.emplace(network_->interface, network_->where, alignment);
}

GpuSession::~GpuSession() {
  try {
    const cuda::Current current;
    cuda::synchronize(*stream_);
    staging_.reset(), network_.reset(), order_.reset(), stream_.reset();
  } catch (const Error&) {
    // A run failed so badly that CUDA takes no more calls, or the process ends: members go as they can.
  }
}

void GpuSession::run(std::span<const TensorView> inputs, std::span<Slot> slots) const {
  const std::lock_guard lock(turn_);
  const cuda::Current current;
  guard([&] { is_bindable_ ? run_staged(inputs, slots) : run_unbound(inputs, slots); });
}

// ONNX Runtime makes fresh outputs and copies what it wants elsewhere, for which it knows no stream but its own.
void GpuSession::run_unbound(std::span<const TensorView> inputs, std::span<Slot> slots) const {
  cuda::synchronize(callers_);
  Ort::IoBinding binding(network_->session);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    check_alignment(network_->interface.inputs[i], inputs[i], alignment);
    binding.BindInput(network_->inputs[i], wrap(inputs[i]));
  }
  const Device place = inputs.empty() ? Device::cpu : inputs.front().device;
  for (const Slot& slot : slots) {
    const char* name = network_->outputs[slot.index];
    check_alignment(network_->interface.outputs[slot.index], slot.memory, alignment);
    if (slot.memory.data != nullptr) binding.BindOutput(name, wrap(slot.memory));
    else binding.BindOutput(name, memory_of(place));
  }
  network_->session.Run(Ort::RunOptions(), binding);
  auto results = binding.GetOutputValues();
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (slots[i].memory.data == nullptr) slots[i].fresh = take(std::move(results[i]), place);
  }
}

void GpuSession::run_staged(std::span<const TensorView> inputs, std::span<Slot> slots) const {
  make_fresh(inputs, slots);
  const Ort::IoBinding binding = bound(*staging_, inputs, slots);
  run_between(*staging_, inputs, slots, [&] { enqueue(binding, *staging_, inputs, slots); });
}

// Outputs are not of ONNX Runtime's own memory, in which a graph has what is between its layers.
void GpuSession::make_fresh(std::span<const TensorView> inputs, std::span<Slot> slots) const {
  for (Slot& slot : slots) {
    if (slot.memory.data != nullptr) continue;
    const TensorSpec& spec = network_->interface.outputs[slot.index];
    std::vector<std::int64_t> sizes;
    for (const Size& size : spec.shape) sizes.push_back(*told_size(size, network_->interface, inputs));
    const bool on_gpu = !inputs.empty() && inputs.front().device == Device::cuda;
    slot.fresh = on_gpu ? cuda::make_tensor(spec.dtype, Shape(sizes), repr(spec.name) + " of `" + network_->where + "`")
                        : Tensor(spec.dtype, Shape(sizes));
  }
}

Ort::IoBinding GpuSession::bound(Staging& staging, std::span<const TensorView> inputs, std::span<Slot> slots) const {
  Ort::IoBinding binding(network_->session);
  const auto there = [](const TensorView& array, void* place) {
    return wrap({place, array.dtype, array.shape, Device::cuda});
  };
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    binding.BindInput(network_->inputs[i], there(inputs[i], staging.input(i, inputs[i], *stream_)));
  }
  for (Slot& slot : slots) {
    const TensorView target = target_of(slot);
    binding.BindOutput(network_->outputs[slot.index], there(target, staging.output(slot.index, target, *stream_)));
  }
  return binding;
}

// Copies in, a run, copies out.
void GpuSession::enqueue(const Ort::IoBinding& binding, Staging& staging, std::span<const TensorView> inputs,
                         std::span<Slot> slots) const {
  staging.copy_in(inputs, *stream_);
  network_->session.Run(quiet_, binding);
  staging.copy_out(slots, *stream_);
}

// After what is on the caller's stream, and before what comes there: it waits in our place where all stays on the GPU.
template <class Work>
void GpuSession::run_between(Staging& staging, std::span<const TensorView> inputs, std::span<Slot> slots,
                             Work work) const {
  staging.stage(inputs);
  order_->keep(callers_, *stream_);
  work();
  if (callers_ == nullptr || touches_main_memory(inputs, slots)) cuda::synchronize(*stream_);
  else order_->keep(*stream_, callers_);
  staging.deliver(slots);
}

// A run with memory of its own, as one CUDA graph where it can be.
class GpuSession::Bound : public Binding {
 public:
  Bound(const GpuSession& session, std::span<const TensorView> inputs, std::span<Slot> slots)
      : session_(session),
        inputs_(inputs),
        slots_(slots),
        staging_(std::in_place, session.network_->interface, session.network_->where, alignment) {}

  ~Bound() override {
    const std::lock_guard lock(session_.turn_);
    try {
      const cuda::Current current;
      cuda::synchronize(*session_.stream_);
      graph_.reset(), staging_.reset();
    } catch (const Error&) {
      // As in ~GpuSession.
    }
  }

  // Runs for the first time: what the provider puts off until then would end a capture.
  void prepare() {
    const std::lock_guard lock(session_.turn_);
    const cuda::Current current;
    guard([&] {
      binding_ = session_.bound(*staging_, inputs_, slots_);
      run_uncaptured();
      if (session_.captures_) capture();
    });
  }

  void run() override {
    const std::lock_guard lock(session_.turn_);
    const cuda::Current current;
    guard([&] { graph_ == nullptr ? run_uncaptured() : run_captured(); });
  }

 private:
  void enqueue() { session_.enqueue(binding_, *staging_, inputs_, slots_); }

  void run_uncaptured() {
    session_.run_between(*staging_, inputs_, slots_, [&] { enqueue(); });
  }

  void run_captured() {
    session_.run_between(*staging_, inputs_, slots_, [&] { cuda::launch(graph_, *session_.stream_); });
  }

  void capture() {
    cuda::synchronize(*session_.stream_);
    const auto is_kept = [&](const void* memory) { return staging_->keeps(memory); };
    graph_ = cuda::capture(*session_.stream_, [&] { enqueue(); }, is_kept);
    if (graph_ != nullptr) return;
    try {
      enqueue();  // The provider reports the failed capture once more.
    } catch (const Ort::Exception&) {
    }
  }

  const GpuSession& session_;
  std::span<const TensorView> inputs_;
  std::span<Slot> slots_;
  std::optional<Staging> staging_;
  Ort::IoBinding binding_{nullptr};
  cuda::Graph graph_{nullptr, nullptr};
};

std::unique_ptr<Binding> GpuSession::bind(std::span<const TensorView> inputs, std::span<Slot> slots) const {
  if (!is_bindable_) return nullptr;
  auto bound = std::make_unique<Bound>(*this, inputs, slots);
  bound->prepare();
  return bound;
}

}  // namespace

std::unique_ptr<Session> open_gpu_session(const Model& model, const Options& options) {
  return std::make_unique<GpuSession>(model, options);
}

}  // namespace gantk::onnxruntime

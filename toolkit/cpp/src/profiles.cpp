// SPDX-License-Identifier: Apache-2.0
#include "profiles.hpp"

#include <algorithm>

#include "gantk/error.hpp"
#include "text.hpp"

namespace gantk {
namespace {

// E.g. "1..4 x 3 x 64..1024".
std::string span_text(const ShapeRange& range) {
  std::vector<std::string> parts;
  for (std::size_t axis = 0; axis < range.min.size(); ++axis) {
    const std::string low = std::to_string(range.min[axis]), high = std::to_string(range.max[axis]);
    parts.push_back(low == high ? low : low + ".." + high);
  }
  return parts.empty() ? "a number" : join(parts, " x ");
}

std::string sizes_text(const Shape& shape) {
  std::vector<std::string> sizes;
  for (const std::int64_t size : shape.sizes()) sizes.push_back(std::to_string(size));
  return join(sizes, "x");
}

std::string served_text(const Model& model, const Profile& profile) {
  std::vector<std::string> parts;
  for (const TensorSpec& spec : model.interface.inputs) {
    parts.push_back(spec.name + " " + span_text(profile.at(spec.name)));
  }
  return join(parts);
}

[[noreturn]] void fail_unserved(const Model& model, std::span<const TensorView> inputs) {
  std::vector<std::string> served, asked;
  for (const Profile& profile : model.engine->profiles) served.push_back(served_text(model, profile));
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    asked.push_back(model.interface.inputs[i].name + " " + sizes_text(inputs[i].shape));
  }
  throw Error("`" + model.where + "` serves " + join(served, " or ") + "; asked for is " + join(asked), model.where,
              "gantk export BUNDLE --to ... --min NAME=... --max NAME=... builds for other shapes");
}

void check_tensors(const Model& model, const std::vector<FoundTensor>& all, bool inputs) {
  std::vector<std::string> found, declared;
  for (const FoundTensor& tensor : all) {
    if (tensor.is_input == inputs) found.push_back(tensor.name + ": " + tensor.dtype);
  }
  for (const TensorSpec& spec : inputs ? model.interface.inputs : model.interface.outputs) {
    declared.push_back(spec.name + ": " + std::string(name_of(spec.dtype)));
  }
  const std::string listed = found.empty() ? "none" : join(found), wanted = join(declared);
  std::sort(found.begin(), found.end());
  std::sort(declared.begin(), declared.end());
  if (found == declared) return;
  throw Error("`" + model.where + "` has " + (inputs ? "inputs " : "outputs ") + listed + "; declared are " + wanted,
              model.where, "the manifest does not belong to this file; export the bundle again");
}

}  // namespace

std::size_t choose_profile(const Model& model, std::span<const TensorView> inputs) {
  const auto& profiles = model.engine->profiles;
  for (std::size_t index = 0; index < profiles.size(); ++index) {
    bool serves = true;
    for (std::size_t i = 0; serves && i < inputs.size(); ++i) {
      serves = profiles[index].at(model.interface.inputs[i].name).holds(inputs[i].shape);
    }
    if (serves) return index;
  }
  fail_unserved(model, inputs);
}

void check_engine(const Model& model, const std::vector<FoundTensor>& found, std::size_t profiles) {
  for (const FoundTensor& tensor : found) {
    if (tensor.on_gpu) continue;
    throw Error(repr(tensor.name) + " of `" + model.where +
                    "` decides on shapes, and lies in host memory, which gantk does not feed",
                model.where);
  }
  check_tensors(model, found, true);
  check_tensors(model, found, false);
  if (profiles == model.engine->profiles.size()) return;
  throw Error("`" + model.where + "` has " + std::to_string(profiles) + " profiles; declared are " +
                  std::to_string(model.engine->profiles.size()),
              model.where, "the manifest does not belong to this file; build it again");
}

}  // namespace gantk

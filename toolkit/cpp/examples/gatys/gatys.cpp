// SPDX-License-Identifier: Apache-2.0
// Style transfer by optimisation (Gatys et al., CVPR 2016, arXiv:1508.06576), without Python: a bundle that
// `gantk export --gatys` made holds the targets of the losses and one whole step of Adam as graphs.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

#include "../example.hpp"
#include "gantk/pictures.hpp"
#include "gantk/runner.hpp"

namespace {

constexpr double content_weight = 1.0, style_weight = 30.0;  // as `gantk stylize` has them, relative to the targets
constexpr float first_rate = 0.02f;
constexpr double least_square = 1e-12;

using Tensors = std::map<std::string, gantk::Tensor>;

double sum_of_squares(const gantk::Tensor& tensor) {
  double sum = 0;
  for (const float value : tensor.values<float>()) sum += static_cast<double>(value) * value;
  return std::max(sum, least_square);
}

gantk::Tensor make(const gantk::Shape& shape, const std::vector<float>& values) {
  gantk::Tensor tensor(gantk::DType::float32, shape);
  std::copy(values.begin(), values.end(), tensor.values<float>().begin());
  return tensor;
}

gantk::Tensor zeros(const gantk::Shape& shape) {
  return make(shape, std::vector<float>(static_cast<std::size_t>(shape.count())));
}

// What the picture is to approach: the content's features, the style's Gram matrices, and weights by which each
// loss counts relative to its target.
Tensors find_targets(const std::string& bundle, const gantk::Tensor& content, const gantk::Tensor& style) {
  const auto runner = gantk::Runner::open(bundle, {.form = "targets"});
  Tensors wanted;
  for (auto& [name, tensor] : runner.run({{"picture", content.view()}})) {
    if (!name.starts_with("content.")) continue;
    const auto weight = static_cast<float>(2 * content_weight / sum_of_squares(tensor));
    wanted["content_weight"] = make({}, {weight});
    wanted[name] = std::move(tensor);
  }
  std::vector<float> layers;
  auto outputs = runner.run({{"picture", style.view()}});
  for (auto& [name, tensor] : outputs) {
    if (!name.starts_with("gram.")) continue;
    layers.push_back(static_cast<float>(static_cast<double>(tensor.shape().count()) / sum_of_squares(tensor)));
    wanted[name] = std::move(tensor);
  }
  const auto count = static_cast<float>(layers.size());
  for (float& weight : layers) weight /= count;
  wanted["layer_weights"] = make({static_cast<std::int64_t>(layers.size())}, layers);
  wanted["style_weight"] = make({}, {static_cast<float>(style_weight)});
  wanted["variation_weight"] = make({}, {0});
  return wanted;
}

// Adam, whose state goes around: what a step yields is what the next one takes.
gantk::Tensor paint(const std::string& bundle, Tensors state, gantk::Tensor start, int steps) {
  const auto runner = gantk::Runner::open(bundle, {.form = "adam"});
  state["mean"] = zeros(start.shape());
  state["square"] = zeros(start.shape());
  state["corrections"] = zeros({2});
  state["betas"] = make({2}, {0.9f, 0.999f});
  state["epsilon"] = make({}, {1e-8f});
  state["picture"] = std::move(start);
  for (int number = 1; number <= steps; ++number) {
    // In the second half the rate falls to a tenth.
    const float done = static_cast<float>(number) / static_cast<float>(steps);
    state["learning_rate"] = make({}, {2 * number > steps ? first_rate * (1.9f - 1.8f * done) : first_rate});
    std::vector<gantk::Feed> feeds;
    for (const auto& [name, tensor] : state) feeds.push_back({name, tensor.view()});
    auto outputs = runner.run(feeds);
    const float content = outputs["content_loss"].values<float>()[0], style = outputs["style_loss"].values<float>()[0];
    if (number % 10 == 0 || number == 1) {
      std::fprintf(stderr, "step %d of %d: content %.4g, style %.4g\n", number, steps,
                   static_cast<double>(content * state["content_weight"].values<float>()[0]), style * style_weight);
    }
    for (const char* name : {"picture", "mean", "square", "corrections"}) {
      state[name] = std::move(outputs["next_" + std::string(name)]);
    }
  }
  return std::move(state["picture"]);
}

}  // namespace

int main(int count, char** words) {
  return run_example(count, words, 4, 6, "gantk_gatys STEP_BUNDLE CONTENT STYLE OUT.png [SIZE] [STEPS]",
                     [](const auto& given) {
                       const int size = given.size() > 4 ? number(given[4]) : 256;
                       const int steps = given.size() > 5 ? number(given[5]) : 100;
                       const auto load = [&](const std::string& path) {
                         const gantk::Tensor pixels = gantk::pictures::read(path);
                         return gantk::pictures::to_planes(gantk::pictures::reduce(pixels.view(), size).view(), 0, 1);
                       };
                       gantk::Tensor content = load(given[1]);
                       Tensors targets = find_targets(given[0], content, load(given[2]));
                       const gantk::TensorSpec spec{.name = "picture", .range = std::pair(0.0, 1.0), .layout = "NCHW"};
                       const gantk::Tensor painted = paint(given[0], std::move(targets), std::move(content), steps);
                       gantk::pictures::write(given[3], gantk::pictures::to_pixels(painted.view(), spec).view());
                     });
}

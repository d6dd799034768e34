// SPDX-License-Identifier: Apache-2.0
// Pictures from a generator, in a grid.
#include <random>

#include "../example.hpp"
#include "gantk/pictures.hpp"
#include "gantk/runner.hpp"

namespace {

// Normal noise float32[count, size].
gantk::Tensor draw_latents(std::int64_t count, std::int64_t size, unsigned seed) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<float> normal;
  gantk::Tensor latents(gantk::DType::float32, {count, size});
  for (float& value : latents.values<float>()) value = normal(engine);
  return latents;
}

// How many numbers a latent vector has.
std::int64_t latent_size(const gantk::TensorSpec& spec) {
  if (spec.shape.size() == 2) {
    if (const auto* size = std::get_if<std::int64_t>(&spec.shape[1])) return *size;
  }
  throw gantk::Error("the network takes " + spec.text() + "; a generator takes latent vectors", spec.name);
}

}  // namespace

int main(int count, char** words) {
  return run_example(count, words, 2, 4, "gantk_generate BUNDLE OUT.png [COUNT] [SEED]", [](const auto& given) {
    const int pictures = given.size() > 2 ? number(given[2]) : 16;
    const int seed = given.size() > 3 ? number(given[3]) : 0;
    const auto runner = gantk::Runner::open(given[0]);
    const gantk::TensorSpec& spec = runner.inputs().at(0);
    const auto latents = draw_latents(pictures, latent_size(spec), static_cast<unsigned>(seed));
    auto outputs = runner.run({{spec.name, latents.view()}});
    const gantk::TensorSpec& picture = runner.outputs().at(0);
    const auto pixels = gantk::pictures::to_pixels(outputs[picture.name].view(), picture);
    gantk::pictures::write(given[1], gantk::pictures::grid(pixels.view()).view());
  });
}

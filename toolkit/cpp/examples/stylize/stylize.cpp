// SPDX-License-Identifier: Apache-2.0
// A picture in, a picture out, by a feed-forward style network that takes pixels.
#include "../example.hpp"
#include "gantk/pictures.hpp"
#include "gantk/runner.hpp"

int main(int count, char** words) {
  return run_example(count, words, 3, 3, "gantk_stylize BUNDLE PICTURE OUT.png", [](const auto& given) {
    const auto runner = gantk::Runner::open(given[0]);
    const gantk::Tensor picture = gantk::pictures::read(given[1]);
    auto outputs = runner.run({{"picture", picture.view()}});
    gantk::pictures::write(given[2], outputs["stylized"].view());
  });
}

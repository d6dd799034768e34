// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <gantk/gantk.h>
#include <gantk/runner.hpp>
#include <vector>

int main(int count, char** words) {
  if (count != 2) return 2;
  try {
    const auto runner = gantk::Runner::open(words[1], {.backend = "auto", .threads = 1});
    const std::vector<float> latent = {0.5f, -1, 2, 0};
    auto outputs = runner.run({{"latent", {latent, {1, 4}}}});
    const auto picture = outputs["picture"].values<float>();
    std::printf("%s %zu %.6f\n", gantk_version(), picture.size(), static_cast<double>(picture[0]));
    return 0;
  } catch (const gantk::Error& error) {
    std::fprintf(stderr, "%s\n", error.text().c_str());
    return 1;
  }
}

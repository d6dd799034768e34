// SPDX-License-Identifier: Apache-2.0
// Makes a picture half as large.
#include <algorithm>
#include <gantk/pictures.hpp>

int main(int count, char** words) {
  if (count != 3) return 2;
  const gantk::Tensor picture = gantk::pictures::read(words[1]);
  const std::int64_t longest = std::max(picture.shape()[1], picture.shape()[2]);
  gantk::pictures::write(words[2], gantk::pictures::reduce(picture.view(), longest / 2).view());
}

// SPDX-License-Identifier: Apache-2.0
#include "npy.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "gantk/error.hpp"
#include "test_folder.hpp"

namespace gantk {
namespace {

TEST(Npy, ReadsWhatItWrote) {
  const testing::Folder folder;
  const std::string path = folder.path() / "x.npy";
  const std::vector<std::int32_t> values = {1, -2, 3, 4, 5, 6};
  npy::write(path, TensorView(values, {3, 1, 2}));
  const Tensor read = npy::read(path);
  EXPECT_EQ(read.shape(), Shape({3, 1, 2}));
  const auto found = read.values<std::int32_t>();
  EXPECT_EQ(std::vector(found.begin(), found.end()), values);
}

TEST(Npy, AlignsItsHeader) {
  const float value = 1;
  for (const Shape& shape : {Shape({}), Shape({1}), Shape({1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1})}) {
    EXPECT_EQ((npy::format({&value, DType::float32, shape}).size() - sizeof value) % 64, 0u);
  }
}

TEST(Npy, RefusesWhatIsNone) {
  const testing::Folder folder;
  const float value = 1;
  const std::string good = npy::format({&value, DType::float32, {1}});
  std::vector<std::string> bad = {"",
                                  "x",
                                  good.substr(0, 9),
                                  good.substr(0, 20),
                                  good.substr(0, good.size() - 1),
                                  good + "x",
                                  std::string(12, '\xFF'),
                                  good.substr(0, 11) + std::string(120, ' ')};
  for (const auto& [from, to] : {std::pair{"<f4", ">f4"}, {"<f4", "|O8"}, {"(1,)", "(9,)"}, {"descr", "nothing"}}) {
    std::string changed = good;
    changed.replace(changed.find(from), std::string(from).size(), to);
    bad.push_back(changed);
  }
  for (const std::string& data : bad) {
    folder.write("x.npy", data);
    EXPECT_THROW(npy::read(folder.path() / "x.npy"), Error) << data;
  }
  EXPECT_THROW(npy::read(folder.path() / "missing.npy"), Error);
  EXPECT_THROW(npy::read(folder.path()), Error);
}

}  // namespace
}  // namespace gantk

// SPDX-License-Identifier: Apache-2.0
#include "gantk/pictures.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <iterator>
#include <vector>

#include "gantk/error.hpp"
#include "test_bundle.hpp"

namespace gantk::pictures {
namespace {

// Every value there is, in an order of its own.
Tensor sample(std::int64_t height, std::int64_t width, std::int64_t channels = 3) {
  Tensor pixels(DType::uint8, {1, height, width, channels});
  auto values = pixels.values<std::uint8_t>();
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::uint8_t>(i * 37 + i / 256);
  return pixels;
}

std::vector<std::uint8_t> values_of(const Tensor& tensor) {
  const auto values = tensor.values<std::uint8_t>();
  return {values.begin(), values.end()};
}

TEST(Pictures, PngsComeBackAsTheyWere) {
  const testing::Folder folder;
  const std::string path = folder.path() / "x.png";
  const Tensor pixels = sample(17, 23);
  write(path, pixels.view());
  EXPECT_EQ(read(path).shape(), Shape({1, 17, 23, 3}));
  EXPECT_EQ(values_of(read(path)), values_of(pixels));
  write(path, sample(5, 4, 1).view());
  EXPECT_EQ(read(path).values<std::uint8_t>()[3], 37);  // Grey is all three channels.
}

TEST(Pictures, RefusesWhatIsNone) {
  const testing::Folder folder;
  const std::string path = folder.path() / "x.png";
  write(path, sample(40, 40).view());
  std::ifstream stream(path, std::ios::binary);
  const std::string good{std::istreambuf_iterator<char>(stream), {}};
  for (const std::string& data :
       {std::string(), std::string("GIF89a"), good.substr(0, 20), good.substr(0, good.size() / 2),
        std::string("\xFF\xD8\xFF\xE0 no picture"), std::string("\xFF\xD8")}) {
    folder.write("x.png", data);
    EXPECT_THROW(read(path), Error) << data.substr(0, 8);
  }
  // A header that declares 2^31 - 1 pixels each way; the sum over it is not even checked.
  std::string bomb = good;
  bomb.replace(16, 8, std::string("\x00\x0f\xff\xff\x00\x0f\xff\xff", 8));
  folder.write("x.png", bomb);
  EXPECT_THROW(read(path), Error);
  EXPECT_THROW(read(folder.path() / "missing.png"), Error);
  const std::string said = testing::refusal([&] { read(folder.path()); });
  EXPECT_TRUE(said.starts_with("cannot read `" + folder.path().string() + "`: Is a directory")) << said;
  EXPECT_THROW(write(path, Tensor(DType::float32, {1, 2, 2, 3}).view()), Error);
  EXPECT_THROW(write("/no such folder/x.png", sample(2, 2).view()), Error);
}

TEST(Pictures, PixelsAndPlanesAreInverse) {
  const Tensor pixels = sample(9, 11);
  const Tensor planes = to_planes(pixels.view(), -1, 1);
  EXPECT_EQ(planes.shape(), Shape({1, 3, 9, 11}));
  EXPECT_FLOAT_EQ(planes.values<float>()[9 * 11], static_cast<float>(37 / 127.5 - 1));
  const TensorSpec spec{.name = "p", .range = std::pair(-1.0, 1.0), .layout = "NCHW"};
  EXPECT_EQ(values_of(to_pixels(planes.view(), spec)), values_of(pixels));
  EXPECT_EQ(values_of(to_pixels(pixels.view(), spec)), values_of(pixels));
}

TEST(Pictures, ClipsAndRefusesNan) {
  Tensor planes(DType::float32, {1, 1, 1, 4});
  auto values = planes.values<float>();
  const TensorSpec spec{.name = "p", .range = std::pair(0.0, 1.0), .layout = "NCHW"};
  values[0] = -3, values[1] = 7, values[2] = 0.5f, values[3] = 1.0f / 255;
  EXPECT_EQ(values_of(to_pixels(planes.view(), spec)), (std::vector<std::uint8_t>{0, 255, 128, 1}));
  values[0] = std::nanf("");
  EXPECT_THROW(to_pixels(planes.view(), spec), Error);
}

TEST(Pictures, ReducesToTheMean) {
  Tensor pixels(DType::uint8, {1, 2, 4, 1});
  const std::uint8_t given[] = {0, 100, 10, 20, 200, 100, 30, 60};
  std::copy(std::begin(given), std::end(given), pixels.values<std::uint8_t>().begin());
  EXPECT_EQ(values_of(reduce(pixels.view(), 2)), (std::vector<std::uint8_t>{100, 30}));
  EXPECT_EQ(values_of(reduce(pixels.view(), 9)), values_of(pixels));
  Tensor flat(DType::uint8, {1, 101, 67, 3});
  std::fill_n(flat.values<std::uint8_t>().begin(), flat.shape().count(), std::uint8_t{201});
  const Tensor reduced = reduce(flat.view(), 13);
  EXPECT_EQ(reduced.shape(), Shape({1, 13, 9, 3}));
  for (const std::uint8_t value : values_of(reduced)) EXPECT_EQ(value, 201);
}

TEST(Pictures, AGridHasEveryPicture) {
  Tensor pixels(DType::uint8, {3, 1, 2, 1});
  const std::uint8_t given[] = {1, 2, 3, 4, 5, 6};
  std::copy(std::begin(given), std::end(given), pixels.values<std::uint8_t>().begin());
  const Tensor sheet = grid(pixels.view(), 1);
  EXPECT_EQ(sheet.shape(), Shape({1, 5, 7, 1}));
  const std::vector<std::uint8_t> wanted = {0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 3, 4, 0, 0, 0, 0, 0,
                                            0, 0, 0, 0, 5, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  EXPECT_EQ(values_of(sheet), wanted);
}

TEST(Pictures, AGridHasNoNegativeBorder) {
  const Tensor pixels = sample(4, 4);
  EXPECT_EQ(values_of(grid(pixels.view(), 0)), values_of(pixels));
  EXPECT_THROW(grid(pixels.view(), -1), Error);
}

TEST(Pictures, ReadsNoGpuMemory) {
  const TensorSpec spec{.name = "p", .range = std::pair(0.0, 1.0), .layout = "NCHW"};
  for (const DType dtype : {DType::float32, DType::uint8}) {
    const Tensor there({reinterpret_cast<void*>(64), dtype, {1, 3, 2, 1}, Device::cuda}, [](void*) {});
    for (const auto& work : {std::function<void()>([&] { to_pixels(there.view(), spec); }),
                             std::function<void()>([&] { to_planes(there.view(), 0, 1); }),
                             std::function<void()>([&] { write("x.png", there.view()); })}) {
      EXPECT_EQ(testing::refusal(work), "the pictures are in GPU memory\n  hint: copy them to the CPU first");
    }
  }
}

}  // namespace
}  // namespace gantk::pictures

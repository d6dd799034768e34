// SPDX-License-Identifier: Apache-2.0
// That both languages refuse the same in the same words is compared in tests/cpp; here it is what sanitizers watch.
#include "gantk/bundle.hpp"

#include <gtest/gtest.h>

#include "file.hpp"
#include "gantk/error.hpp"
#include "test_bundle.hpp"

namespace gantk {
namespace {

using testing::refusal;

TEST(Bundle, ReadsWhatItsManifestSays) {
  const testing::TestBundle folder;
  const Bundle bundle = Bundle::read(folder.path());
  const Variant& variant = bundle.manifest().variants.at(0);
  EXPECT_EQ(variant.label(), "fp32 (plain)");
  EXPECT_EQ(bundle.manifest().inputs.at(0).text(), "x: float32[N x 3]");
  EXPECT_EQ(bundle.read_file(variant.file).text(), "network");
}

TEST(Bundle, SeesEveryBitThatChanged) {
  const testing::TestBundle folder;
  const Bundle bundle = Bundle::read(folder.path());
  const FileRef ref = bundle.manifest().variants.at(0).file;
  for (std::size_t bit = 0; bit < 8 * 7; ++bit) {
    std::string data = "network";
    data[bit / 8] = static_cast<char>(data[bit / 8] ^ (1 << bit % 8));
    folder.write(ref.path, data);
    EXPECT_NE(refusal([&] { bundle.read_file(ref); }).find("the manifest says"), std::string::npos);
  }
  folder.write(ref.path, "networks");
  EXPECT_NE(refusal([&] { bundle.read_file(ref); }).find("has 8 bytes; at most 7"), std::string::npos);
}

TEST(Bundle, HashesLargeFilesInParts) {
  const std::string data(3 * (1 << 20) + 17, 'g');
  const testing::TestBundle folder(data);
  const Bundle bundle = Bundle::read(folder.path());
  EXPECT_EQ(bundle.read_file(bundle.manifest().variants.at(0).file).text(), data);
}

TEST(Bundle, RefusesPathsThatLeadOut) {
  for (const char* path :
       {"../x", "/etc/passwd", "a/../b", "a//b", "", ".", "a/b/c/d/e", ".hidden", "a\\b", "manifest.json", "a/"}) {
    auto forged = testing::manifest("network");
    forged["variants"][0]["file"]["path"] = path;
    EXPECT_NE(refusal([&] { Manifest::parse(forged.dump()); }).find("is not the path of a file inside a bundle"),
              std::string::npos)
        << path;
  }
}

TEST(Manifest, RefusesTheValueOfEveryFieldThatIsMissing) {
  const auto whole = testing::manifest("network");
  EXPECT_EQ(Manifest::parse(whole.dump()).name, "tiny");
  for (const char* key : {"schema", "model", "tools", "inputs", "outputs", "variants", "created"}) {
    auto lacking = whole;
    lacking.erase(key);
    EXPECT_EQ(refusal([&] { Manifest::parse(lacking.dump()); }).find("'" + std::string(key) + "' wants"), 0u);
  }
}

TEST(Manifest, RefusesNumbersBeyondItsTypes) {
  auto forged = testing::manifest("network");
  forged["variants"][0]["file"]["size_bytes"] = std::uint64_t{1} << 63;
  EXPECT_NE(refusal([&] { Manifest::parse(forged.dump()); }).find("an integer of 64 bits is wanted"),
            std::string::npos);
  EXPECT_EQ(refusal([] { Manifest::parse(R"({"schema": 1e999})"); }),
            "the manifest is not JSON: a number is too large");
}

TEST(Manifest, SurvivesDepth) {
  EXPECT_EQ(refusal([&] { Manifest::parse(std::string(200000, '[')); }).find("the manifest is not JSON"), 0u);
  auto deep = testing::manifest("network").dump();
  deep.replace(deep.find("\"config\":{}"), 11,
               "\"config\":{\"a\":" + std::string(100000, '[') + std::string(100000, ']') + "}");
  EXPECT_EQ(Manifest::parse(deep).name, "tiny");
}

TEST(Path, IsTidied) {
  EXPECT_EQ(tidy("a//./b/"), "a/b");
  EXPECT_EQ(tidy("/a/../b/."), "/a/../b");
  EXPECT_EQ(tidy(""), ".");
  EXPECT_EQ(tidy("/"), "/");
  EXPECT_THROW(tidy(std::string("a\0b", 3)), Error);
}

}  // namespace
}  // namespace gantk

// SPDX-License-Identifier: Apache-2.0
// That both languages refuse the same in the same words is compared in tests/cpp; here it is what sanitizers watch.
#include "gantk/bundle.hpp"

#include <gtest/gtest.h>

#include "file.hpp"
#include "gantk/error.hpp"
#include "test_bundle.hpp"

namespace gantk {
namespace {

using testing::forged, testing::manifest, testing::refusal;

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
    // Inside JSON a backslash is written twice.
    const std::string written = path == std::string("a\\b") ? "a\\\\b" : path;
    const std::string leading = forged(manifest("network"), "model.fp32.onnx", written);
    EXPECT_NE(refusal([&] { Manifest::parse(leading); }).find("is not the path of a file inside a bundle"),
              std::string::npos)
        << path;
  }
}

TEST(Manifest, RefusesWhatIsNestedTooDeep) {
  EXPECT_EQ(refusal([&] { Manifest::parse(std::string(50'000, '[')); }).find("the manifest is not JSON"), 0u);
  for (const std::string field : {R"("dtype": "float32")", R"("shape": ["N", 3])", R"("range": null)",
                                  R"("layout": null)", R"("config": {})"}) {
    const auto nested = [&](std::size_t levels) {
      const std::string deep = std::string(levels, '[') + std::string(levels, ']');
      const std::string text = forged(manifest("network"), field, field.substr(0, field.find(' ')) + deep);
      return refusal([&] { Manifest::parse(text); });
    };
    const std::string said = nested(200'000);  // Which a thread's stack does not hold.
    EXPECT_EQ(said, "the manifest is not JSON: values are nested more than 100 deep") << field;
    EXPECT_EQ(nested(90).find("nested"), std::string::npos) << field;
  }
}

TEST(Manifest, RefusesTheValueOfEveryFieldThatIsMissing) {
  const std::string whole = manifest("network");
  EXPECT_EQ(Manifest::parse(whole).name, "tiny");
  for (const std::string key : {"schema", "model", "tools", "inputs", "outputs", "variants", "created"}) {
    const std::string lacking = forged(whole, "\"" + key + "\":", "\"other\":");
    EXPECT_EQ(refusal([&] { Manifest::parse(lacking); }).find("'" + key + "' wants"), 0u);
  }
}

TEST(Manifest, RefusesNumbersBeyondItsTypes) {
  const std::string large = forged(manifest("network"), "\"size_bytes\": 7", "\"size_bytes\": 9223372036854775808");
  EXPECT_NE(refusal([&] { Manifest::parse(large); }).find("an integer of 64 bits is wanted"), std::string::npos);
  EXPECT_EQ(refusal([] { Manifest::parse(R"({"schema": 1e999})"); }),
            "the manifest is not JSON: a number is too large");
}

TEST(Manifest, ShowsValuesAsPythonDoes) {
  const auto refused = [](const std::string& field, const std::string& value) {
    return refusal([&] { Manifest::parse(forged(manifest("network"), "\"" + field + "\": null", value)); });
  };
  const std::string strange = R"([1, 2.5, null, true, "x'y", {"a": {}, "b": 18446744073709551615}])";
  const std::string shown = R"([1, 2.5, None, True, "x'y", {'a': {}, 'b': 18446744073709551615}])";
  EXPECT_EQ(refused("layout", "\"layout\": " + strange),
            "inputs[0]: tensor 'x' has a layout " + shown + "; one of NC, NCHW, NHWC is wanted");
  EXPECT_EQ(refused("range", "\"range\": \"text\""),
            "inputs[0]: tensor 'x' has a range 'text'; two numbers are wanted");
  EXPECT_EQ(refused("probe", "\"probe\": []"), "'probe' wants dict, not list");
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

// SPDX-License-Identifier: Apache-2.0
#include "text.hpp"

#include <gtest/gtest.h>

#include <clocale>
#include <limits>

namespace gantk {
namespace {

TEST(Text, QuotesAsPythonDoes) {
  EXPECT_EQ(repr(std::string_view("plain")), "'plain'");
  EXPECT_EQ(repr(std::string_view("it's")), "\"it's\"");
  EXPECT_EQ(repr(std::string_view("it's \"both\"")), "'it\\'s \"both\"'");
  EXPECT_EQ(repr(std::string_view("a\\b\n\r\t\x1b\x7f")), "'a\\\\b\\n\\r\\t\\x1b\\x7f'");
  EXPECT_EQ(repr(std::string_view("\u00e9\u200b\U000E0001")), "'\u00e9\\u200b\\U000e0001'");
  EXPECT_EQ(repr(std::string_view("a\0b", 3)), "'a\\x00b'");
}

TEST(Text, NumbersAsPythonWritesThem) {
  EXPECT_EQ(repr(0.0), "0.0");
  EXPECT_EQ(repr(-0.0), "-0.0");
  EXPECT_EQ(repr(0.1), "0.1");
  EXPECT_EQ(repr(1e16), "1e+16");
  EXPECT_EQ(repr(123456789012345.0), "123456789012345.0");
  EXPECT_EQ(repr(1e-4), "0.0001");
  EXPECT_EQ(repr(1e-5), "1e-05");
  EXPECT_EQ(repr(5e-324), "5e-324");
  EXPECT_EQ(repr(std::numeric_limits<double>::infinity()), "inf");
}

TEST(Text, NumbersHaveAPointInEveryLocale) {
  const std::string before = std::setlocale(LC_NUMERIC, nullptr);
  for (const char* name : {"de_DE.UTF-8", "fr_FR.UTF-8", "pt_BR.UTF-8", "ru_RU.UTF-8"}) {
    if (std::setlocale(LC_NUMERIC, name) != nullptr) break;  // Machines have some of them, or none.
  }
  EXPECT_EQ(formatted(0.0012345, 3), "0.00123");
  EXPECT_EQ(formatted(9.5), "9.5");
  EXPECT_EQ(formatted(80.0), "80");
  EXPECT_EQ(formatted(1e300, 3), "1e+300");
  EXPECT_EQ(formatted(49.96, 1, std::chars_format::fixed), "50.0");
  EXPECT_EQ(formatted(std::numeric_limits<double>::max(), 1, std::chars_format::fixed).size(), 311u);
  std::setlocale(LC_NUMERIC, before.c_str());
}

TEST(Text, CountsCodePoints) {
  EXPECT_EQ(length("\u00e9\U0001F600x"), 3u);
  EXPECT_EQ(first("\u00e9\U0001F600x", 2), "\u00e9\U0001F600");
  EXPECT_EQ(first("ab", 5), "ab");
  EXPECT_EQ(first("a\xF0\x9F", 5), "a\xF0\x9F");  // A character that is cut does not read past the end.
}

TEST(Text, KnowsWhatATerminalShows) {
  EXPECT_TRUE(is_printable("\u00e9 \U0001F600"));
  for (const char* text : {"\x1b[31m", "a\nb", "\u00a0", "\u202e", "\ufeff", "\ue000"})
    EXPECT_FALSE(is_printable(text));
}

TEST(Text, ShortensWhatVendorsSay) {
  EXPECT_EQ(shortened("FAIL : /src/core/graph.cc:123 void  Run()\n it failed"), "FAIL : void Run() it failed");
  EXPECT_EQ(shortened("a/b.h:12:rest of:it x.cc:1 /dir/file.txt:3"), "rest of:it x.cc:1 /dir/file.txt:3");
  const std::string cut = shortened(std::string(1000, 'x'));
  EXPECT_EQ(cut.size(), 300u);
  EXPECT_TRUE(cut.ends_with("x..."));
}

}  // namespace
}  // namespace gantk

// SPDX-License-Identifier: Apache-2.0
#include "file.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>

namespace gantk {
namespace {

TEST(CacheFolder, IsWhereTheEnvironmentSaidFirst) {
  ::setenv("XDG_CACHE_HOME", "/first", 1);
  EXPECT_EQ(cache_folder(), "/first/gantk");
  ::setenv("XDG_CACHE_HOME", "/second", 1);
  EXPECT_EQ(cache_folder(), "/first/gantk");
  ::unsetenv("XDG_CACHE_HOME");
}

}  // namespace
}  // namespace gantk

// SPDX-License-Identifier: Apache-2.0
#include "cores.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <limits>
#include <map>
#include <string>

#include "test_folder.hpp"

namespace gantk {
namespace {

constexpr double unlimited = std::numeric_limits<double>::infinity();

double quota_with(const std::string& groups, const std::map<std::string, std::string>& files) {
  const testing::Folder folder;
  for (const auto& [name, text] : files) {
    std::filesystem::create_directories((folder.path() / name).parent_path());
    folder.write(name, text);
  }
  folder.write("groups", groups);
  return quota(folder.path().string(), (folder.path() / "groups").string());
}

TEST(Cores, KnowTheQuotaOfControlGroups) {
  EXPECT_EQ(quota_with("0::/\n", {{"cpu.max", "400000 100000\n"}}), 4.0);  // As a container sees it.
  EXPECT_EQ(quota_with("0::/\n", {{"cpu.max", "max 100000\n"}}), unlimited);
  EXPECT_EQ(quota_with("0::/a/b\n", {{"a/b/cpu.max", "max 100000\n"}, {"a/cpu.max", "150000 100000\n"}}), 1.5);
  EXPECT_EQ(quota_with("0::/\n", {}), unlimited);
  EXPECT_EQ(quota_with("9:memory:/c\n3:cpu,cpuacct:/c\n0::/\n",
                       {{"cpu/c/cpu.cfs_quota_us", "50000\n"}, {"cpu/c/cpu.cfs_period_us", "100000\n"}}),
            0.5);
  // In a container the path is the host's, and the mount the container's own.
  EXPECT_EQ(quota_with("3:cpu,cpuacct:/docker/0123\n",
                       {{"cpu/cpu.cfs_quota_us", "200000\n"}, {"cpu/cpu.cfs_period_us", "100000\n"}}),
            2.0);
  EXPECT_EQ(quota_with("3:cpu:/\n", {{"cpu/cpu.cfs_quota_us", "-1\n"}, {"cpu/cpu.cfs_period_us", "100000\n"}}),
            unlimited);
  EXPECT_EQ(quota_with("0::/\n", {{"cpu.max", "what\n"}}), unlimited);
  EXPECT_EQ(quota("/nowhere", "/nowhere"), unlimited);
}

TEST(Cores, AreOneAtLeast) { EXPECT_GE(core_count(), 1); }

}  // namespace
}  // namespace gantk

// SPDX-License-Identifier: Apache-2.0
// What the C API adds to the runner: nothing is thrown through it, and nothing is allocated.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "add_one.hpp"
#include "gantk/gantk.h"
#include "test_bundle.hpp"

namespace gantk {
namespace {

class CApiTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::AddOneBackend::add();
    gantk_options options = gantk_options_default();
    options.backend = "add-one";
    ASSERT_EQ(gantk_runner_open(bundle_.path().c_str(), &options, &runner_), nullptr);
  }
  void TearDown() override { gantk_runner_free(runner_); }

  static gantk_tensor tensor(const char* name, float* data) {
    return {name, data, GANTK_FLOAT32, GANTK_CPU, 2, 0, {2, 3}};
  }
  gantk_error* run() const { return gantk_runner_run_into(runner_, &input_, 1, &output_, 1); }

  testing::TestBundle bundle_;
  gantk_runner* runner_ = nullptr;
  float x_[6] = {1, 2, 3, 4, 5, 6}, y_[6] = {};
  gantk_tensor input_ = tensor("x", x_), output_ = tensor("y", y_);
};

TEST_F(CApiTest, DefaultsAreThoseOfTheRunner) {
  const gantk_options options = gantk_options_default();
  const Options wanted;
  EXPECT_EQ(options.backend, wanted.backend);
  for (const char* text : {options.precision, options.device, options.form}) EXPECT_EQ(text, nullptr);
  EXPECT_EQ(options.threads, wanted.threads);
  EXPECT_EQ(options.stream, wanted.stream);
}

TEST_F(CApiTest, RunsIntoTheCallersMemoryAndAllocatesNothing) {
  ASSERT_EQ(run(), nullptr);
  const long before = testing::allocations;
  for (int i = 0; i < 100; ++i) run();
  EXPECT_EQ(testing::allocations - before, 0);
  EXPECT_EQ(testing::AddOne::read_from, x_);
  EXPECT_EQ(y_[5], 7);
}

TEST_F(CApiTest, TellsWhatTheBackendHolds) {
  const auto [engine, activations, buffers] = gantk_runner_memory_bytes(runner_);
  EXPECT_EQ(engine, 1u);
  EXPECT_EQ(activations, 2u);
  EXPECT_EQ(buffers, 3u);
}

TEST_F(CApiTest, SaysThatThereIsNoMemory) {
  gantk_outputs* outputs = nullptr;
  testing::is_full = true;
  gantk_error* const error = gantk_runner_run(runner_, &input_, 1, &outputs);
  testing::is_full = false;
  ASSERT_NE(error, nullptr);
  EXPECT_EQ(gantk_error_text(error), std::string("there is not enough memory"));
  gantk_error_free(error);
}

TEST_F(CApiTest, LetsNothingThrownThrough) {
  for (const auto& [value, text] : {std::pair{-1.0f, "it does not like minus one"},
                                    std::pair{-2.0f, "a library threw what is no exception"}}) {
    x_[0] = value;
    gantk_outputs* outputs = nullptr;
    for (gantk_error* error : {run(), gantk_runner_run(runner_, &input_, 1, &outputs)}) {
      ASSERT_NE(error, nullptr);
      EXPECT_EQ(gantk_error_get_kind(error), GANTK_FAILED);
      EXPECT_NE(std::string(gantk_error_text(error)).find(text), std::string::npos) << gantk_error_text(error);
      gantk_error_free(error);
    }
    EXPECT_EQ(outputs, nullptr);
  }
  x_[0] = 1;
  EXPECT_EQ(run(), nullptr);  // It goes on.
}

}  // namespace
}  // namespace gantk

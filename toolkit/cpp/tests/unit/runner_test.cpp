// SPDX-License-Identifier: Apache-2.0
// The runner over a backend that adds one: what it promises whoever computes.
#include "gantk/runner.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <limits>
#include <new>
#include <optional>
#include <thread>
#include <vector>

#include "add_one.hpp"
#include "test_bundle.hpp"

std::atomic<long> gantk::testing::allocations{0};
std::atomic<bool> gantk::testing::is_full{false};

// Every allocation of this program is counted.
// Not inlined, for GCC then warns of malloc beside delete.
[[gnu::noinline]] void* operator new(std::size_t size) {
  ++gantk::testing::allocations;
  if (void* memory = gantk::testing::is_full ? nullptr : std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace gantk {
namespace {

using testing::refusal;

using testing::AddOneBackend, testing::allocations;

class RunnerTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { AddOneBackend::add(); }

  Runner open() const { return Runner::open(bundle_.path(), {.backend = "add-one"}); }

  testing::TestBundle bundle_;
  std::vector<float> x_ = {1, 2, 3, 4, 5, 6};
  TensorView view_{std::as_const(x_), {2, 3}};
};

static_assert(std::is_nothrow_move_constructible_v<Runner> && !std::is_copy_constructible_v<Runner>);
static_assert(std::is_nothrow_move_constructible_v<Tensor> && !std::is_copy_constructible_v<Tensor>);

TEST_F(RunnerTest, RunsIntoFreshArrays) {
  const Runner runner = open();
  Outputs first = runner.run({{"x", view_}});
  Outputs second = runner.run({{"x", view_}});
  EXPECT_EQ(first["y"].shape(), Shape({2, 3}));
  EXPECT_EQ(first["y"].values<float>()[5], 7);
  EXPECT_EQ(first["z"].values<std::int64_t>()[0], 2);
  EXPECT_NE(first["y"].view().data, second["y"].view().data);
  EXPECT_NE(refusal([&] { first["w"]; }).find("no output 'w'; it has y, z"), std::string::npos);
  EXPECT_EQ(runner.backend() + " " + runner.version() + " " + runner.precision(), "add-one 1.0 fp32");
}

TEST_F(RunnerTest, RunsIntoTheCallersMemoryAndAllocatesNothing) {
  const Runner runner = open();
  std::vector<float> y(6);
  std::vector<std::int64_t> z(1);
  const MutableTensorView to_y(y, {2, 3}), to_z(z, {1});
  const auto run = [&] { runner.run({{"x", view_}}, {{"z", to_z}, {"y", to_y}}); };
  run();
  const long before = allocations;
  for (int i = 0; i < 100; ++i) run();
  EXPECT_EQ(allocations - before, 0);
  EXPECT_EQ(testing::AddOne::read_from, x_.data());  // Nor was anything copied.
  EXPECT_EQ(y[5], 7);
  EXPECT_EQ(z[0], 2);
  // The counter counts: fresh arrays are allocations.
  runner.run({{"x", view_}});
  EXPECT_GT(allocations - before, 0);
}

TEST_F(RunnerTest, RefusesMemoryThatDoesNotFit) {
  const Runner runner = open();
  std::vector<float> y(6, 9);
  const auto into = [&](std::string_view name, MutableTensorView memory) {
    return refusal([&] { runner.run({{"x", view_}}, {{name, memory}}); });
  };
  EXPECT_EQ(into("y", {y, {3, 2}}), "`out` for 'y' has shape [3, 2]; the output has [2, 3]");
  EXPECT_EQ(into("y", {y, {6}}), "`out` for 'y' has shape [6]; the output has [2, 3]");
  EXPECT_EQ(into("q", {y, {6}}), "the network has no output 'q'; it has y, z");
  EXPECT_NE(into("z", {y, {6}}).find("has dtype float32; the output has int64"), std::string::npos);
  EXPECT_NE(into("y", {nullptr, DType::float32, {2, 3}}).find("has no memory"), std::string::npos);
  EXPECT_NE(into("y", {y.data(), DType::float32, {2, 3}, Device::cuda}).find("GPU memory"), std::string::npos);
  const MutableTensorView good(y, {2, 3});
  EXPECT_NE(refusal([&] {
              runner.run({{"x", view_}}, {{"y", good}, {"y", good}});
            }).find("memory twice"),
            std::string::npos);
  EXPECT_EQ(y, std::vector<float>(6, 9));
}

TEST_F(RunnerTest, RefusesMemoryThatItReadsOrWritesElsewhere) {
  const Runner runner = open();
  std::vector<std::int64_t> memory(4);  // Of six floats, and of one integer behind them.
  const MutableTensorView in_place(x_, {2, 3}), to_y(memory.data(), DType::float32, {2, 3});
  const MutableTensorView last(&memory[2], DType::int64, {1}), behind(&memory[3], DType::int64, {1});
  const auto into = [&](std::initializer_list<Target> targets) {
    return refusal([&] { runner.run({{"x", view_}}, targets); });
  };
  EXPECT_EQ(into({{"y", in_place}}), "`out` for 'y' and 'x' share memory\n  in: y: float32[N x 3]");
  EXPECT_EQ(into({{"y", to_y}, {"z", last}}), "`out` for 'z' and 'y' share memory\n  in: z: int64[K]");
  EXPECT_NE(refusal([&] { runner.bind({{"x", view_}}, {{"y", in_place}}); }).find("share memory"), std::string::npos);
  EXPECT_EQ(x_[5], 6);
  EXPECT_EQ(into({{"y", to_y}, {"z", behind}}), "it was not refused");
}

TEST_F(RunnerTest, RefusesWrongInputsAndGoesOn) {
  const Runner runner = open();
  const auto fed = [&](std::vector<Feed> feeds) { return refusal([&] { runner.run(feeds); }); };
  EXPECT_EQ(fed({}), "the inputs given are none; the network wants x: float32[N x 3]");
  EXPECT_NE(fed({{"x", view_}, {"x", view_}}).find("the inputs given are 'x', 'x'"), std::string::npos);
  EXPECT_NE(fed({{"x", {x_.data(), DType::float32, {2, 3}, Device::cuda}}}).find("GPU memory"), std::string::npos);
  EXPECT_NE(fed({{"x", {x_.data(), DType::int32, {2, 3}}}}).find("has dtype int32"), std::string::npos);
  EXPECT_NE(fed({{"x", {nullptr, DType::float32, {2, 3}}}}).find("has no memory"), std::string::npos);
  x_[0] = -1;
  EXPECT_EQ(fed({{"x", view_}}),
            "add-one failed to run the network: it does not like minus one\n  in: <Runner add-one 1.0 fp32 on cpu>");
  x_[0] = 0;
  EXPECT_EQ(runner.run({{"x", view_}})["y"].values<float>()[0], 1);
}

TEST_F(RunnerTest, IsClosedOnce) {
  Runner runner = open();
  Outputs outputs = runner.run({{"x", view_}});
  runner.close();
  runner.close();
  EXPECT_NE(refusal([&] { runner.run({{"x", view_}}); }).find("the runner is closed"), std::string::npos);
  EXPECT_NE(refusal([&] { runner.memory_bytes(); }).find("the runner is closed"), std::string::npos);
  EXPECT_EQ(outputs["y"].values<float>()[0], 2);  // Outputs outlive the runner.
  Runner moved = std::move(runner);
  EXPECT_NE(refusal([&] { runner.inputs(); }).find("moved to another variable"), std::string::npos);
}

TEST_F(RunnerTest, BindsARunToMemory) {
  std::optional<Runner> runner = open();
  std::vector<float> y(6);
  Bound bound = runner->bind({{"x", view_}}, {{"y", {y, {2, 3}}}});
  x_[5] = 10;
  bound.run();
  EXPECT_EQ(y[5], 11);
  EXPECT_EQ(bound.outputs().size(), 0u);
  runner.reset();  // It outlives the runner.
  const long before = allocations;
  for (int i = 0; i < 100; ++i) bound.run();
  EXPECT_EQ(allocations - before, 0);
  x_[5] = std::numeric_limits<float>::infinity();
  EXPECT_NE(refusal([&] { bound.run(); }).find("1 of 6 values that are NaN"), std::string::npos);
  x_[5] = 0, x_[0] = -1;
  EXPECT_NE(refusal([&] { bound.run(); }).find("add-one failed to run the network: it does not like"),
            std::string::npos);
  x_[0] = 5;
  Bound moved = std::move(bound);
  moved.run();
  EXPECT_EQ(y[0], 6);
  EXPECT_NE(refusal([&] { bound.run(); }).find("moved to another variable"), std::string::npos);
}

TEST_F(RunnerTest, BindsARunToArraysThatItMakes) {
  Runner runner = open();
  Bound bound = runner.bind({{"x", view_}});
  const void* place = bound.outputs()["y"].view().data;
  x_[0] = 3;
  bound.run();
  EXPECT_EQ(bound.outputs()["y"].values<float>()[0], 4);
  EXPECT_EQ(bound.outputs()["z"].values<std::int64_t>()[0], 2);
  EXPECT_EQ(bound.outputs()["y"].view().data, place);
  const auto into = [&](Shape shape) {
    std::vector<float> y(6);
    return refusal([&] { runner.bind({{"x", view_}}, {{"y", {y, shape}}}); });
  };
  EXPECT_EQ(into({6}), "`out` for 'y' has shape [6]; the output has [2, 3]");
  runner.close();
  EXPECT_NE(into({2, 3}).find("the runner is closed"), std::string::npos);
}

// Runs a network within a run, as a backend does that puts others together.
class Twice : public AddOneBackend {
 public:
  explicit Twice(Runner inner) : inner_(std::make_shared<Runner>(std::move(inner))) {}
  std::string name() const override { return "twice"; }
  std::optional<std::string> executed(const std::string& precision, Device) const override {
    return precision == "fp32" ? std::optional(precision) : std::nullopt;
  }
  std::unique_ptr<Session> open(Model, Device, const Options&) const override {
    struct Both : testing::AddOne {
      std::shared_ptr<Runner> inner;
      void run(std::span<const TensorView> inputs, std::span<Slot> slots) const override {
        Outputs once = inner->run({{"x", inputs[0]}});
        const TensorView x = once["y"].view();
        AddOne::run({&x, 1}, slots);
      }
    };
    auto both = std::make_unique<Both>();
    both->inner = inner_;
    return both;
  }

 private:
  std::shared_ptr<Runner> inner_;
};

TEST_F(RunnerTest, RunsWithinARun) {
  add_backend(std::make_unique<Twice>(open()));
  const Runner runner = Runner::open(bundle_.path(), {.backend = "twice"});
  EXPECT_EQ(runner.run({{"x", view_}})["y"].values<float>()[5], 8);
  std::vector<float> y(6);
  runner.run({{"x", view_}}, {{"y", {y, {2, 3}}}});
  EXPECT_EQ(y[5], 8);
}

TEST_F(RunnerTest, SaysWhatABackendRefuses) {
  const testing::TestBundle bad("bad network");
  EXPECT_NE(refusal([&] { Runner::open(bad.path(), {.backend = "add-one"}); }).find("add-one refuses"),
            std::string::npos);
  EXPECT_NE(refusal([] { add_backend(std::make_unique<AddOneBackend>()); }).find("'add-one' already"),
            std::string::npos);
}

// Computes bf16 with native operators alone.
class WithOperators : public AddOneBackend {
 public:
  std::string name() const override { return "with-operators"; }
  std::optional<std::string> executed(const std::string&, Device) const override { return std::nullopt; }
  std::optional<std::string> executed_natively(const std::string& precision, Device) const override {
    return precision;
  }
};

// Computes any file.
class Whatever : public AddOneBackend {
 public:
  std::string name() const override { return "whatever"; }
  std::unique_ptr<Session> open(Model, Device, const Options&) const override {
    return std::make_unique<testing::AddOne>();
  }
};

TEST_F(RunnerTest, TakesWhatWasMeasuredAgainstNothingLast) {
  const std::string bad = "bad network", native = "native network";
  bundle_.write("model.fp32.onnx", bad);
  bundle_.write("native.onnx", native);
  const std::string variant = R"({"file": {"path": "native.onnx", "sha256": ")" + testing::sha256(native) +
                              R"(", "size_bytes": )" + std::to_string(native.size()) +
                              R"(}, "precision": "bf16", "form": "rewritten", "opset": 22, "parity": [],
                              "fastest_on": ["with-operators"], "rewrites": ["channels-last-to-native"]}, )";
  const std::string plain = testing::forged(testing::manifest(bad), R"("precision": "fp32")", R"("precision": "bf16")");
  bundle_.write("manifest.json", testing::forged(plain, R"("variants": [)", R"("variants": [)" + variant));
  const auto opened = [&] { return Runner::open(bundle_.path(), {.precision = "bf16"}).backend(); };
  const auto refused = [&] { return refusal(opened); };
  add_backend(std::make_unique<WithOperators>());
  ::unsetenv("GANTK_ONNXRUNTIME_OPS");
  EXPECT_NE(refused().find("with-operators cannot compute bf16"), std::string::npos);
  ::setenv("GANTK_ONNXRUNTIME_OPS", "operators.so", 1);
  EXPECT_EQ(opened(), "with-operators");
  add_backend(std::make_unique<Whatever>());
  EXPECT_EQ(opened(), "whatever");
  ::unsetenv("GANTK_ONNXRUNTIME_OPS");
}

// Runs a piece of work in eight threads at the same time.
void in_threads(const std::function<void(int)>& work) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) threads.emplace_back(work, i);
  for (std::thread& thread : threads) thread.join();
}

TEST_F(RunnerTest, IsSharedByThreads) {
  const Runner runner = open();
  std::atomic<int> wrong{0};
  in_threads([&](int number) {
    const std::vector<float> x(static_cast<std::size_t>(3 * (number + 1)), static_cast<float>(number));
    std::vector<float> y(x.size());
    const Shape shape({number + 1, 3});
    for (int i = 0; i < 300; ++i) {
      runner.run({{"x", {x, shape}}}, {{"y", {y, shape}}});
      Outputs fresh = runner.run({{"x", {x, shape}}});
      wrong += y.back() != static_cast<float>(number + 1) || fresh["z"].values<std::int64_t>()[0] != number + 1;
      wrong += refusal([&] {
                 runner.run({{"x", {x.data(), DType::float32, {1}}}});
               }).find("input 'x' has shape [1]") != 0;
    }
  });
  EXPECT_EQ(wrong, 0);
}

TEST_F(RunnerTest, IsOpenedByManyThreads) {
  std::atomic<int> wrong{0};
  in_threads([&](int) {
    for (int i = 0; i < 20; ++i) wrong += open().run({{"x", view_}})["y"].values<float>()[0] != 2;
  });
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace gantk

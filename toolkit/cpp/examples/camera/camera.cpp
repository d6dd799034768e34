// SPDX-License-Identifier: Apache-2.0
// A loop as over a camera's frames: a folder of them through a style network, into buffers that are made once, with
// the latency of each frame's run.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>

#include "../example.hpp"
#include "gantk/pictures.hpp"
#include "gantk/runner.hpp"

namespace {

using Clock = std::chrono::steady_clock;

std::vector<std::filesystem::path> find_frames(const std::string& folder) {
  std::vector<std::filesystem::path> frames;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string suffix = entry.path().extension().string();
    if (suffix == ".png" || suffix == ".jpg" || suffix == ".jpeg") frames.push_back(entry.path());
  }
  std::sort(frames.begin(), frames.end());
  if (frames.empty()) throw gantk::Error("`" + folder + "` holds no .png or .jpg", folder);
  return frames;
}

// The latency that a share of the frames stay below, by the nearest rank.
double percentile(const std::vector<double>& sorted, double share) {
  return sorted[static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1) + 0.5)];
}

void run(const std::string& bundle, const std::string& folder, const std::string& out) {
  const auto runner = gantk::Runner::open(bundle);
  std::filesystem::create_directories(out);
  gantk::Tensor stylized;
  std::vector<double> latency_ms;
  for (const auto& path : find_frames(folder)) {
    const gantk::Tensor frame = gantk::pictures::read(path);
    // The output of a style network has the size of its input, which a camera does not change.
    if (!(stylized.shape() == frame.shape())) stylized = gantk::Tensor(gantk::DType::uint8, frame.shape());
    const auto start = Clock::now();
    runner.run({{"picture", frame.view()}}, {{"stylized", stylized.mutable_view()}});
    latency_ms.push_back(std::chrono::duration<double, std::milli>(Clock::now() - start).count());
    gantk::pictures::write(std::filesystem::path(out) / (path.stem().string() + ".png"), stylized.view());
  }
  const double first = latency_ms.front();
  std::sort(latency_ms.begin(), latency_ms.end());
  std::printf("%zu frames, first %.1f ms, p50 %.1f ms, p90 %.1f ms, p99 %.1f ms\n", latency_ms.size(), first,
              percentile(latency_ms, 0.5), percentile(latency_ms, 0.9), percentile(latency_ms, 0.99));
}

}  // namespace

int main(int count, char** words) {
  return run_example(count, words, 3, 3, "gantk_camera BUNDLE FRAMES_FOLDER OUT_FOLDER",
                     [](const auto& given) { run(given[0], given[1], given[2]); });
}

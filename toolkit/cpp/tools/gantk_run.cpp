// SPDX-License-Identifier: Apache-2.0
// gantk-run: runs a bundle once on arrays from files, without Python.
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <iostream>
#include <set>
#include <string>
#include <system_error>
#include <vector>

#include "gantk/runner.hpp"
#include "npy.hpp"

namespace {

constexpr const char* usage =
    "usage: gantk-run BUNDLE --input NAME=FILE.npy ... --output-dir DIR [--backend NAME] [--precision fp32|fp16|...]\n"
    "                 [--device cpu|cuda] [--form plain|rewritten|...] [--threads N]\n"
    "\n"
    "Runs the bundle once and writes each output to DIR/NAME.npy. Without --input it only says what it takes.\n";

struct Arguments {
  std::string bundle, output_dir;
  std::vector<std::pair<std::string, std::string>> inputs;  // name, file
  gantk::Options options;
};

gantk::Error usage_error(const std::string& what, const std::string& where) {
  return gantk::Error(what, where, "gantk-run --help", gantk::ErrorKind::usage);
}

int parse_threads(const std::string& text) {
  if (text.empty() || text.size() > 6 || text.find_first_not_of("0123456789") != text.npos || std::stoi(text) < 1) {
    throw usage_error("'" + text + "' is not a number of threads", "--threads");
  }
  return std::stoi(text);
}

void set(Arguments& arguments, const std::string& option, const std::string& value) {
  if (option == "--input") {
    const std::size_t equals = value.find('=');
    if (equals == value.npos) throw usage_error("'" + value + "' is not NAME=FILE.npy", "--input");
    arguments.inputs.emplace_back(value.substr(0, equals), value.substr(equals + 1));
  } else if (option == "--output-dir") {
    arguments.output_dir = value;
  } else if (option == "--backend") {
    arguments.options.backend = value;
  } else if (option == "--precision") {
    arguments.options.precision = value;
  } else if (option == "--device") {
    arguments.options.device = value;
  } else if (option == "--form") {
    arguments.options.form = value;
  } else if (option == "--threads") {
    arguments.options.threads = parse_threads(value);
  } else {
    throw usage_error("there is no option " + option, option);
  }
}

Arguments parse(const std::vector<std::string>& words) {
  Arguments arguments;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (!words[i].starts_with("--")) {
      if (!arguments.bundle.empty()) throw usage_error("one bundle is wanted, not two", words[i]);
      arguments.bundle = words[i];
    } else if (i + 1 == words.size()) {
      throw usage_error(words[i] + " wants a value", words[i]);
    } else {
      set(arguments, words[i], words[i + 1]);
      ++i;
    }
  }
  if (arguments.bundle.empty()) throw usage_error("a bundle is wanted", "BUNDLE");
  if (!arguments.inputs.empty() && arguments.output_dir.empty()) {
    throw usage_error("--input wants --output-dir", "--output-dir");
  }
  return arguments;
}

// A file's name for a tensor's, as the Python command chooses it.
std::string file_name(const std::string& tensor) {
  std::string name;
  for (const char c : tensor) {
    if ((c & 0xC0) == 0x80) continue;  // A character of several bytes is one.
    const bool kept =
        (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' || c == '.' || c == '-';
    name += kept ? c : '_';
  }
  name = name.substr(0, 100);
  name.erase(0, name.find_first_not_of('.'));
  return name.empty() ? "output" : name;
}

void make_folder(const std::string& folder) {
  std::error_code fault;
  std::filesystem::create_directories(folder, fault);
  if (fault) throw gantk::Error("cannot write to `" + folder + "`: " + fault.message(), folder, "check the path");
}

// What it takes of the GPU, where the backend tells.
void tell_memory(const gantk::Runner& runner) {
  const auto held = runner.memory_bytes();
  if (!held) return;
  const auto mib = [](std::size_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  std::fprintf(stderr, "GPU memory: %.1f MiB of weights, %.1f of activations, %.1f of buffers\n", mib(held->engine),
               mib(held->activations), mib(held->buffers));
}

void run(const Arguments& arguments) {
  const auto runner = gantk::Runner::open(arguments.bundle, arguments.options);
  std::cerr << runner.name() << " by " << runner.backend() << " " << runner.version() << " in " << runner.precision()
            << " on " << name_of(runner.device()) << "\n";
  if (arguments.inputs.empty()) {
    for (const auto& spec : runner.inputs()) std::cout << "input  " << spec.text() << "\n";
    for (const auto& spec : runner.outputs()) std::cout << "output " << spec.text() << "\n";
    return tell_memory(runner);
  }
  std::deque<gantk::Tensor> tensors;
  std::vector<gantk::Feed> feeds;
  for (const auto& [name, file] : arguments.inputs) {
    tensors.push_back(gantk::npy::read(file));
    feeds.push_back({name, tensors.back().view()});
  }
  auto outputs = runner.run(feeds);
  make_folder(arguments.output_dir);
  std::set<std::string> written;
  for (const auto& [tensor_name, tensor] : outputs) {
    std::string name = file_name(tensor_name);
    if (written.contains(name)) name += "-" + std::to_string(written.size());
    written.insert(name);
    const std::string path = arguments.output_dir + "/" + name + ".npy";
    gantk::npy::write(path, tensor.view());
    std::cout << path << "\n";
  }
  tell_memory(runner);
}

}  // namespace

int main(int count, char** words) {
  ::setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // What users run is told to nobody, unless they say so.
  const std::vector<std::string> given(words + 1, words + count);
  for (const std::string& word : given) {
    if (word == "-h" || word == "--help") return std::fputs(usage, stdout), 0;
  }
  try {
    run(parse(given));
    // What a caller closed leads nowhere; what has no room is an error.
    if (!std::cout.flush() && errno != EBADF) {
      throw gantk::Error(std::string("cannot write to standard output: ") + std::strerror(errno), {},
                         "make room and run the command again");
    }
    return 0;
  } catch (const gantk::Error& error) {
    std::cerr << "error: " << error.text() << "\n";
    return static_cast<int>(error.kind());
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
}

// SPDX-License-Identifier: Apache-2.0
#include "parity.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "gantk/error.hpp"
#include "text.hpp"

namespace gantk {
namespace {

struct Threshold {
  std::string_view precision;
  double psnr_db;  // the smallest peak signal-to-noise ratio
  double max_abs;  // the largest difference of one value, as a share of the output's range
};

// Those of gantk/runtime/parity.py, which says why; a test compares the two.
constexpr std::array<Threshold, 6> thresholds = {{
    {"fp32", 80.0, 1e-3},
    {"tf32", 50.0, 0.15},  // its products have the mantissas of fp16
    {"fp16", 50.0, 0.15},
    {"bf16", 35.0, 0.5},
    {"int8", 30.0, 0.5},
    {"fp8", 30.0, 0.5},
}};
// Of a step of an optimisation.
constexpr std::array<Threshold, 3> step_thresholds = {{
    {"fp32", 60.0, 0.05},
    {"tf32", 40.0, 0.5},
    {"bf16", 30.0, 0.5},
}};
constexpr std::string_view step_family = "gatys-step";
constexpr double psnr_cap_db = 200.0;
constexpr double rounded_db = 65.0;

const Threshold& threshold_of(std::string_view precision, std::string_view family) {
  const auto is_for = [&](const Threshold& threshold) { return threshold.precision == precision; };
  if (family == step_family) {
    const auto* found = std::find_if(step_thresholds.begin(), step_thresholds.end(), is_for);
    if (found != step_thresholds.end()) return *found;
  }
  const auto* found = std::find_if(thresholds.begin(), thresholds.end(), is_for);
  if (found == thresholds.end()) throw Error("there is no threshold for " + repr(precision));
  return *found;
}

double widened(Float16 value) {
  const int exponent = value.bits >> 10 & 31, fraction = value.bits & 1023;
  const double size = exponent == 31 ? (fraction == 0 ? std::numeric_limits<double>::infinity()
                                                      : std::numeric_limits<double>::quiet_NaN())
                      : exponent == 0 ? std::ldexp(fraction, -24)
                                      : std::ldexp(1024 + fraction, exponent - 25);
  return (value.bits & 0x8000) != 0 ? -size : size;
}
double widened(BFloat16 value) { return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16); }

template <class T>
double widened(T value) {
  return static_cast<double>(value);
}

// Memory may be unaligned: that of a file is.
template <class T>
std::vector<double> read(const TensorView& view) {
  std::vector<double> values(static_cast<std::size_t>(view.shape.count()));
  const auto* bytes = static_cast<const unsigned char*>(view.data);
  for (std::size_t i = 0; i < values.size(); ++i) {
    T value;
    std::memcpy(&value, bytes + i * sizeof value, sizeof value);
    values[i] = widened(value);
  }
  return values;
}

std::vector<double> values_of(const TensorView& view) {
  switch (view.dtype) {
    case DType::float32: return read<float>(view);
    case DType::float16: return read<Float16>(view);
    case DType::bfloat16: return read<BFloat16>(view);
    case DType::float64: return read<double>(view);
    case DType::int8: return read<std::int8_t>(view);
    case DType::int32: return read<std::int32_t>(view);
    case DType::int64: return read<std::int64_t>(view);
    case DType::uint8:
    case DType::boolean: break;
  }
  return read<std::uint8_t>(view);
}

bool is_whole(DType dtype) {
  return dtype == DType::uint8 || dtype == DType::int8 || dtype == DType::int32 || dtype == DType::int64;
}

double span_of(const std::vector<double>& values) {
  if (values.empty()) return 0;
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  return *high - *low;
}

// What is declared, or else what the reference has; of a single value its size. Never 0.
double range_of(const TensorSpec& spec, const std::vector<double>& reference) {
  if (spec.range) return spec.range->second - spec.range->first;
  if (const double span = span_of(reference); span != 0) return span;
  const double size = reference.empty() ? 0 : std::abs(reference.front());
  return size != 0 ? size : 1;
}

std::string not_finite(const std::vector<double>& values) {
  const auto nan = std::count_if(values.begin(), values.end(), [](double v) { return std::isnan(v); });
  const auto infinite = std::count_if(values.begin(), values.end(), [](double v) { return std::isinf(v); });
  if (nan + infinite == 0) return {};
  return std::to_string(nan) + " values are NaN and " + std::to_string(infinite) + " infinite, of " +
         std::to_string(values.size());
}

struct Difference {
  double psnr_db, max_abs;
};

Difference compare(const std::vector<double>& values, const std::vector<double>& wanted, double span) {
  double squares = 0, max_abs = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const double difference = std::abs(values[i] - wanted[i]);
    squares += difference * difference;
    max_abs = std::max(max_abs, difference);
  }
  const double mean = squares / static_cast<double>(wanted.size());
  return {mean == 0 ? psnr_cap_db : std::min(psnr_cap_db, 10 * std::log10(span * span / mean)), max_abs};
}

}  // namespace

std::string fault_of(const TensorView& output, const TensorView& reference, const TensorSpec& spec,
                     std::string_view precision, std::string_view family) {
  if (output.shape != reference.shape) {
    return "an output has shape " + output.shape.text() + ", its reference " + reference.shape.text();
  }
  const Threshold& threshold = threshold_of(precision, family);
  const std::vector<double> values = values_of(output), wanted = values_of(reference);
  if (std::string fault = not_finite(values); !fault.empty()) return fault;
  if (span_of(values) == 0 && span_of(wanted) > 0) return "every output is one constant";
  const double span = range_of(spec, wanted);
  const Difference found = compare(values, wanted, span);
  const double quantum = is_whole(reference.dtype) ? 1 : 0;  // Rounding may go either way.
  const double wanted_db = quantum > 0 ? std::min(threshold.psnr_db, rounded_db) : threshold.psnr_db;
  if (!(found.psnr_db >= wanted_db)) {
    return formatted(found.psnr_db, 1, std::chars_format::fixed) + " dB PSNR, at least " + formatted(wanted_db) +
           " dB wanted";
  }
  const double allowed = std::max(threshold.max_abs * span, quantum);
  if (found.max_abs > allowed) {
    return "a value differs by " + formatted(found.max_abs, 3) + ", at most " + formatted(allowed, 3) +
           " allowed";
  }
  return {};
}

}  // namespace gantk

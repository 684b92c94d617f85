#pragma once
// Reference figures of a small model of random weights: what an independent implementation computed in float64.

#include <string>
#include <vector>

#include "moe/checkpoint/safetensors.hpp"
#include "tests/support/catch.hpp"

namespace supernode::test {

/// tests/moe/golden/<name>: 3 sequences of 20 tokens, the first 12 prefilled at once, the others one by one.
class Golden {
 public:
  static constexpr std::size_t batch = 3, length = 20, prefill = 12, vocab = 256, hidden = 64, topk = 4;

  explicit Golden(const std::string& name)
      : directory_(source_path("tests/moe/golden/" + name)), file_(directory_ + "/expected.safetensors") {
    const moe::TensorView& view = file_.at("tokens");
    tokens_.resize(view.size());
    moe::convert_to_i32(view, tokens_);
    logits_ = values("logits");
  }

  const std::string& directory() const { return directory_; }
  std::span<const std::int32_t> tokens(std::size_t sequence) const {
    return std::span(tokens_).subspan(sequence * length, length);
  }
  std::span<const float> logits(std::size_t sequence, std::size_t position) const {
    return std::span(logits_).subspan((sequence * length + position) * vocab, vocab);
  }
  std::vector<float> values(const std::string& tensor) const {
    const moe::TensorView& view = file_.at(tensor);
    std::vector<float> out(view.size());
    moe::convert_to_f32(view, out);
    return out;
  }
  std::vector<std::int32_t> integers(const std::string& tensor) const {
    const moe::TensorView& view = file_.at(tensor);
    std::vector<std::int32_t> out(view.size());
    moe::convert_to_i32(view, out);
    return out;
  }

 private:
  std::string directory_;
  moe::SafetensorsFile file_;
  std::vector<std::int32_t> tokens_;
  std::vector<float> logits_;
};

/// The largest |a - b|; infinite when sizes differ or a value is NaN.
inline double max_difference(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(difference <= worst)) worst = std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference;
  }
  return worst;
}

}  // namespace supernode::test

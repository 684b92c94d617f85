// Models in bf16 and int8: what their rounding costs, and that nothing but rounding differs.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include <fmt/format.h>

#include "collectives/algorithms.hpp"
#include "moe/checkpoint.hpp"
#include "moe/checkpoint/safetensors.hpp"
#include "moe/hdf5_import.hpp"
#include "moe/products/smoothing.hpp"
#include "moe/text/tokenizer.hpp"
#include "runtime/core/config_path.hpp"
#include "tests/moe/forced.hpp"
#include "tests/support/shared_folder.hpp"

namespace supernode::moe {
namespace {
using test::force;
using test::Forced;
using test::Golden;
using test::options_with;
using test::SharedFolder;
using test::world;

/// Logits against others, position by position: |a - b| / |b|, over the positions of all ranks.
class Distances {
 public:
  /// @param other other(i, p): logits of this rank's sequence i at position p
  template <class Other>
  Distances(const Forced& forced, Other&& other) {
    for (std::size_t i = 0; i < forced.logits.size(); ++i)
      for (std::size_t p = 0; p < Golden::length; ++p) {
        const std::span<const float> b = other(i, p);
        double difference = 0, size = 0;
        for (std::size_t v = 0; v < Golden::vocab; ++v) {
          difference += std::pow(static_cast<double>(forced.logits[i][p * Golden::vocab + v]) - b[v], 2);
          size += std::pow(static_cast<double>(b[v]), 2);
        }
        values_.push_back(std::sqrt(difference / size));
      }
  }
  /// Share of the positions that are nearer than `limit`. Collective.
  double share_within(double limit) const {
    const auto near = std::count_if(values_.begin(), values_.end(), [&](double value) { return value < limit; });
    return world().sum(static_cast<double>(near)) / world().sum(static_cast<double>(values_.size()));
  }

 private:
  std::vector<double> values_;
};

Distances between(const Forced& a, const Forced& b) {
  return {a, [&](std::size_t i, std::size_t p) {
            return std::span<const float>(b.logits[i]).subspan(p * Golden::vocab, Golden::vocab);
          }};
}
Distances between(const Forced& a, const Golden& golden) {
  return {a, [&](std::size_t i, std::size_t p) { return golden.logits(a.sequences[i], p); }};
}

}  // namespace

// What rounding may do. A rounded row or matrix changes a product by a share e of its size, at random:
//   bf16   at most 2^-9, 0.0008 as root mean square
//   int8   a step is peak / 127, the root mean square of rounding to it step / sqrt(12); the peak of the model's rows
//          of 64 is 2.5 times their root mean square: 0.006. Without VNNI the weights lose another bit: 0.010 in all
// A token goes through 5 such products a layer, 20 in all, whose errors add up like independent ones, so its logits
// change by e sqrt(20). Twice that is the limit for rows, four times for weights, which are the embedding's and the
// head's too. It holds for most tokens, not for all: here and there a rounded row changes which experts are chosen, as
// in any model whose weights are random. Then the logits are others, but never unrelated ones: those would be at a
// distance of 1.4.
TEST_CASE("imported as bf16 and int8: the reference's logits but for the rounding of weights and rows") {
  struct Row {
    ComputeType type;
    double rows, weights;  ///< e
  };
  const SharedFolder folder("moe-types-test");
  const Golden golden("tiny");
  for (const Row& row : {Row{ComputeType::bf16, 0.0008, 0.0008}, Row{ComputeType::int8, 0.010, 0.006}}) {
    INFO(name_of(row.type));
    const std::string path = folder / fmt::format("tiny-{}.h5", name_of(row.type));
    if (world().rank() == 0) {
      Checkpoint checkpoint(golden.directory());
      import_checkpoint(checkpoint, path, row.type);
    }
    world().barrier();
    TransformerOptions options = options_with("auto");
    // In f32 the file's weights are dequantised when they are read and multiplied as f32, with rows as they are.
    Transformer dequantised(path, options, world());
    options.type = row.type;
    Transformer rounded(path, options, world());
    const Forced actual = force(rounded, golden), reference = force(dequantised, golden);
    const Distances rows = between(actual, reference), weights = between(reference, golden),
                    all = between(actual, golden);
    const double products = std::sqrt(20.0);
    CHECK(rows.share_within(2 * row.rows * products) > 0.5);
    CHECK(weights.share_within(4 * row.weights * products) > 0.5);
    CHECK(all.share_within(row.type == ComputeType::int8 ? 0.12 : 0.015) > 0.5);
    CHECK(rows.share_within(1.2) == 1);
    CHECK(weights.share_within(1.2) == 1);
    CHECK(all.share_within(1.2) == 1);
    // Nothing hides in the tolerance: what was rounded is seen.
    CHECK(rows.share_within(0.1 * row.rows) < 0.5);
  }
}

TEST_CASE("bf16 and int8: the same bits by every exchange algorithm") {
  const Golden golden("tiny");
  for (const ComputeType type : {ComputeType::bf16, ComputeType::int8}) {
    std::vector<std::vector<float>> first;
    for (const collectives::AlgorithmName& algorithm : collectives::algorithms()) {
      INFO(name_of(type) << ", " << algorithm.name);
      TransformerOptions options = options_with(std::string(algorithm.name));
      options.type = type;
      Transformer model(golden.directory(), options, world());
      const Forced forced = force(model, golden);
      if (first.empty()) first = forced.logits;
      CHECK(forced.logits == first);
    }
  }
}

TEST_CASE("bf16 and int8: the shipped model's probabilities stay near those of f32") {
  const std::string text =
      "KING HENRY:\nWhat is the matter, that the people here are gathered in the street, and will not go to bed?\n";
  std::vector<double> nats;
  for (const ComputeType type : {ComputeType::f32, ComputeType::bf16, ComputeType::int8}) {
    TransformerOptions options = options_with("auto");
    options.type = type;
    Transformer model(find_model(default_model), options, world());
    const std::vector<std::int32_t> tokens = Tokenizer(model.config()).encode(text);
    KvCache cache = model.make_cache();
    const SequenceChunk chunk{&cache, tokens, true};
    const StepResult result = model.forward({&chunk, 1});
    double sum = 0;
    for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
      const auto row = result.row(static_cast<int>(i));
      double total = 0;
      for (const float logit : row) total += std::exp(static_cast<double>(logit));
      sum += std::log(total) - static_cast<double>(row[static_cast<std::size_t>(tokens[i + 1])]);
    }
    nats.push_back(sum);
  }
  CHECK(nats[1] == Approx(nats[0]).epsilon(0.01));
  CHECK(nats[2] == Approx(nats[0]).epsilon(0.03));
}

TEST_CASE("smoothing factors change no bit in f32, and help where a channel stands out") {
  const Golden golden("tiny");
  const SharedFolder folder("moe-smoothing-test");
  const std::string smoothed = folder / "smoothed.h5";
  double ratio = 1;
  int groups = 0;
  if (world().rank() == 0) {
    std::filesystem::copy(golden.directory() + "/config.json", folder.path());
    // A channel of the experts' input that is a hundred times larger than the others.
    const SafetensorsFile file(golden.directory() + "/model.safetensors");
    std::map<std::string, std::vector<float>> values;
    std::vector<TensorToWrite> tensors;
    for (const auto& [name, view] : file.tensors()) {
      std::vector<float>& mine = values[name];
      mine.resize(view.size());
      convert_to_f32(view, mine);
      if (name.ends_with("post_attention_layernorm.weight")) mine[3] *= 100;
    }
    for (const auto& [name, view] : file.tensors())
      tensors.push_back({name, ElementType::f32, view.shape, std::as_bytes(std::span(values[name]))});
    write_safetensors(folder / "model.safetensors", tensors);
    Checkpoint checkpoint(folder.path());
    const Smoothing smoothing(checkpoint);
    ratio = smoothing.error_ratio();
    groups = smoothing.smoothed();
    const ImportSummary summary = import_checkpoint(checkpoint, smoothed, ComputeType::f32, OutlierSmoothing::search);
    CHECK(summary.smoothed_groups == groups);
    CHECK(summary.smoothing_error_ratio == ratio);
    CHECK(groups > 0);
    CHECK(ratio < 0.7);
  }
  world().barrier();
  Transformer plain(folder.path(), options_with("auto"), world()), other(smoothed, options_with("auto"), world());
  CHECK(force(plain, golden).logits == force(other, golden).logits);
}

}  // namespace supernode::moe

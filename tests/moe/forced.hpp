#pragma once
// Golden sequences fed to a model token by token, whatever it says.

#include <string>
#include <vector>

#include "moe/transformer.hpp"
#include "tests/moe/golden.hpp"
#include "tests/support/mpi_fixture.hpp"

namespace supernode::test {

/// The sequences of a golden file that live on this rank, teacher-forced.
class Forced {
 public:
  Forced(moe::Transformer& model, const Golden& golden, int rank, int size) : model_(model), golden_(golden) {
    for (std::size_t i = static_cast<std::size_t>(rank); i < Golden::batch; i += static_cast<std::size_t>(size)) {
      sequences.push_back(i);
      caches.push_back(model.make_cache());
      logits.emplace_back();
    }
  }

  /// The next `count` tokens of each sequence in one step.
  void step(std::size_t count) {
    std::vector<moe::SequenceChunk> chunks;
    for (std::size_t i = 0; i < sequences.size(); ++i)
      chunks.push_back(
          {.cache = &caches[i], .tokens = golden_.tokens(sequences[i]).subspan(position_, count), .all_logits = true});
    const moe::StepResult result = model_.forward(chunks);
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const auto rows = result.logits.subspan(i * count * Golden::vocab, count * Golden::vocab);
      logits[i].insert(logits[i].end(), rows.begin(), rows.end());
    }
    position_ += count;
  }

  /// Chunks of `count` until `end`.
  Forced& until(std::size_t end, std::size_t count) {
    while (position_ < end) step(std::min(count, end - position_));
    return *this;
  }

  double worst_against_golden() const {
    double worst = 0;
    for (std::size_t i = 0; i < sequences.size(); ++i)
      for (std::size_t p = 0; p < position_; ++p)
        worst = std::max(worst, max_difference(std::span(logits[i]).subspan(p * Golden::vocab, Golden::vocab),
                                               golden_.logits(sequences[i], p)));
    return worst;
  }

  std::vector<std::size_t> sequences;
  std::vector<moe::KvCache> caches;
  std::vector<std::vector<float>> logits;

 private:
  moe::Transformer& model_;
  const Golden& golden_;
  std::size_t position_ = 0;
};

inline Forced force(moe::Transformer& model, const Golden& golden, std::size_t prefill = Golden::prefill,
                    std::size_t chunk = 1) {
  Forced forced(model, golden, world().rank(), world().size());
  forced.step(prefill);
  forced.until(Golden::length, chunk);
  return forced;
}

inline moe::TransformerOptions options_with(const std::string& exchange) {
  moe::TransformerOptions options;
  options.max_batch_tokens = 64;
  options.exchange = exchange;
  options.deadline = 60;
  return options;
}

}  // namespace supernode::test

#include "memory_pool/benchmark/blocks.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace supernode::pool::internal {
namespace {

constexpr std::uint64_t word_step = 0x9e3779b97f4a7c15ull;

std::uint64_t first_word(std::uint64_t number, std::uint64_t version) { return mix64(number ^ mix64(version)); }

}  // namespace

void fill_block(std::span<std::byte> block, std::uint64_t number, std::uint64_t version) {
  const std::uint64_t start = first_word(number, version);
  for (std::size_t at = 0; at < block.size(); at += 8) {
    const std::uint64_t word = start + at * word_step;
    std::memcpy(block.data() + at, &word, std::min<std::size_t>(8, block.size() - at));
  }
}

bool is_block(std::span<const std::byte> block, std::uint64_t number, std::uint64_t version) {
  const std::uint64_t start = first_word(number, version);
  std::uint64_t differences = 0;
  std::size_t at = 0;
  for (; at + 8 <= block.size(); at += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, block.data() + at, 8);
    differences |= word ^ (start + at * word_step);
  }
  const std::uint64_t last = start + at * word_step;
  return differences == 0 && std::memcmp(block.data() + at, &last, block.size() - at) == 0;
}

Draw::Draw(std::uint64_t keys, double alpha, std::uint64_t seed, std::uint64_t stream)
    : keys_(keys), random_(seed, stream) {
  if (alpha == 0) return;
  double sum = 0;
  for (std::uint64_t i = 0; i < keys; ++i) cumulative_.push_back(sum += std::pow(static_cast<double>(i + 1), -alpha));
}

std::uint64_t Draw::next() {
  if (cumulative_.empty()) return random_.below(keys_);
  const double at = random_.uniform() * cumulative_.back();
  const auto found = std::upper_bound(cumulative_.begin(), cumulative_.end(), at);
  return std::min(keys_ - 1, static_cast<std::uint64_t>(found - cumulative_.begin()));
}

}  // namespace supernode::pool::internal

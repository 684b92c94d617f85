#include "moe/operators/feed_forward.hpp"

#include <algorithm>
#include <utility>

#include "moe/products/kernels.hpp"
#include "moe/products/packing.hpp"

namespace supernode::moe {

FeedForwardScratch::FeedForwardScratch(int max_intermediate)
    : gate_up(2 * static_cast<std::size_t>(block_rows) * static_cast<std::size_t>(max_intermediate)),
      active(static_cast<std::size_t>(block_rows) * static_cast<std::size_t>(max_intermediate)) {}

FeedForward::FeedForward(Checkpoint& checkpoint, const std::string& prefix, int intermediate, ComputeType type,
                         Gemm& gemm)
    : hidden_(checkpoint.config().hidden_size), intermediate_(intermediate) {
  const NamedMatrix gate_up[] = {{prefix + "gate_proj.weight", intermediate},
                                 {prefix + "up_proj.weight", intermediate}};
  gate_up_ = pack_together(checkpoint, gate_up, hidden_, type, gemm);
  down_ = pack_one(checkpoint, {prefix + "down_proj.weight", hidden_}, intermediate, type, gemm);
}

FeedForward::FeedForward(int hidden, int intermediate, PackedMatrix gate_up, PackedMatrix down)
    : hidden_(hidden), intermediate_(intermediate), gate_up_(std::move(gate_up)), down_(std::move(down)) {}

std::vector<std::span<std::byte>> FeedForward::storage() {
  std::vector<std::span<std::byte>> parts = gate_up_.storage();
  for (const std::span<std::byte> part : down_.storage()) parts.push_back(part);
  return parts;
}

std::string FeedForward::format(const Gemm& gemm) const { return gemm.format(gate_up_) + "; " + gemm.format(down_); }

FeedForward FeedForward::copy(const Gemm& gemm) const {
  return {hidden_, intermediate_, gemm.copy(gate_up_), gemm.copy(down_)};
}

void FeedForward::prepare(int rows, Gemm& gemm) const {
  gemm.prepare(gate_up_, std::min(rows, FeedForwardScratch::block_rows));
  gemm.prepare(down_, std::min(rows, FeedForwardScratch::block_rows));
}

template <class Project>
void FeedForward::by_blocks(int rows, Gemm& gemm, FeedForwardScratch& scratch, float* y, const FeedForward* next,
                            Project&& project) const {
  const auto width = static_cast<std::size_t>(intermediate_);
  for (int first = 0; first < rows; first += FeedForwardScratch::block_rows) {
    const int count = std::min(rows - first, FeedForwardScratch::block_rows);
    project(first, count);
    for (std::size_t r = 0; r < static_cast<std::size_t>(count); ++r)
      silu_gate(scratch.gate_up.data() + 2 * r * width, width, scratch.active.data() + r * width);
    gemm.multiply(down_, scratch.active.data(), count, y + static_cast<std::ptrdiff_t>(first) * hidden_,
                  next ? &next->gate_up_ : nullptr);
  }
}

void FeedForward::forward(const float* x, int rows, Gemm& gemm, FeedForwardScratch& scratch, float* y,
                          const FeedForward* next) const {
  by_blocks(rows, gemm, scratch, y, next, [&](int first, int count) {
    gemm.multiply(gate_up_, x + static_cast<std::ptrdiff_t>(first) * hidden_, count, scratch.gate_up.data(), &down_);
  });
}

void FeedForward::forward_quantised(const std::int8_t* x, const float* scales, int rows, Gemm& gemm,
                                    FeedForwardScratch& scratch, float* y) const {
  by_blocks(rows, gemm, scratch, y, nullptr, [&](int first, int count) {
    gemm.multiply_quantised(gate_up_, x + static_cast<std::ptrdiff_t>(first) * hidden_, scales + first, count,
                            scratch.gate_up.data());
  });
}

}  // namespace supernode::moe

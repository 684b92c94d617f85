#include "runtime/serving/workers/carried_exchange.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/mpi/deadline_collectives.hpp"
#include "runtime/core/stopwatch.hpp"

namespace supernode::serving {
namespace {

using collectives::ExchangeConfig;
using collectives::Payload;

constexpr int kMostRows = 256;  ///< of a slice: more in a round are no faster

/// The first values of a row name its expert; the rest differs from row to row. Whole numbers of at most 127, the first
/// of them 127, so that neither int8 nor bf16 rounds anything.
constexpr std::size_t kHeadValues = 4;
constexpr std::int32_t kDigits = 100;

std::array<float, kHeadValues> head_of(std::int32_t expert) {
  return {127, static_cast<float>(expert % kDigits), static_cast<float>(expert / kDigits % kDigits),
          static_cast<float>(expert / kDigits / kDigits)};
}

int slots_of_die(const CarriedExchangeOptions& options) {
  return static_cast<int>(options.setup.layout.slots_per_die(options.model));
}

ExchangeConfig config_of(const CarriedExchangeOptions& options, int rows) {
  const emulation::ExchangeChoices& choices = options.setup.exchange;
  return {
      .max_tokens = rows,
      .hidden = static_cast<int>(options.model.hidden),
      .topk = 1,
      .num_experts = options.setup.layout.dies * slots_of_die(options),
      .dispatch_payload = choices.early_quantisation ? Payload::int8 : Payload::bf16,
      .combine_payload = Payload::bf16,
      .least_dispatch_row_bytes = static_cast<int>(emulation::dispatch_message_bytes(options.model.hidden, choices)),
      .algorithm = options.algorithm,
      .rules = options.rules,
      .deadline_s = options.deadline_s};
}

/// Rows in f32 that are sent, returned, and arrive from all dies.
std::size_t own_bytes(int rows, int hidden, int dies) {
  return product(rows, hidden) * sizeof(float) * static_cast<std::size_t>(2 + dies);
}

/// Collective, so that all dies take the same.
int fitting_rows(const Communicator& instance, const CarriedExchangeOptions& options) {
  const auto hosts = static_cast<int>(instance.sum(static_cast<long long>(instance.split_by_host().rank() == 0)));
  for (int rows = kMostRows; rows > 1; rows /= 2)
    if (collectives::exchange_buffer_bytes(config_of(options, rows), instance.size(), hosts) +
            own_bytes(rows, static_cast<int>(options.model.hidden), instance.size()) <=
        kCarriedExchangeBytes)
      return rows;
  return 1;
}

}  // namespace

CarriedExchange::CarriedExchange(const Communicator& instance, const CarriedExchangeOptions& options)
    : instance_(instance),
      layout_(options.setup.layout),
      slots_(emulation::record_slots(options.setup.layout, options.model)),
      slots_of_die_(slots_of_die(options)),
      hidden_(static_cast<int>(options.model.hidden)),
      deadline_s_(options.deadline_s),
      slice_rows_(fitting_rows(instance, options)),
      exchange_(instance, config_of(options, slice_rows_)),
      sent_(product(slice_rows_, hidden_)),
      returned_(product(slice_rows_, hidden_)) {
  expect(instance.size() == layout_.dies, "an instance has as many ranks as its layout has dies");
  expect(hidden_ >= static_cast<int>(kHeadValues), "a row has room for its expert's number");
  for (int i = 0; i < slice_rows_; ++i)
    for (int h = 0; h < hidden_; ++h) row(i)[h] = static_cast<float>((37 * h + 11 * i) % 251 - 125);
}

/// The exchange deals experts out evenly. So a die with a shared expert has as many as the others, and uses one.
std::int32_t CarriedExchange::expert_of(int slot) const {
  const int routed = layout_.routed_dies() * slots_of_die_;
  return slot < routed ? slot : routed + (slot - routed) * slots_of_die_;
}

void CarriedExchange::fill_slice(std::span<std::int32_t> left) {
  experts_.clear();
  for (int slot = 0; slot < slots_; ++slot) {
    std::int32_t& rows = left[static_cast<std::size_t>(slot)];
    const auto room = static_cast<std::int32_t>(slice_rows_ - static_cast<int>(experts_.size()));
    const std::int32_t now = std::min(rows, room);
    experts_.insert(experts_.end(), static_cast<std::size_t>(now), expert_of(slot));
    rows -= now;
    if (now == room) break;
  }
  weights_.assign(experts_.size(), 1.0F);
  for (std::size_t i = 0; i < experts_.size(); ++i) std::ranges::copy(head_of(experts_[i]), row(static_cast<int>(i)));
}

void CarriedExchange::check_arrived(const collectives::DispatchedTokens& tokens) const {
  const int first = exchange_.experts().first(instance_.rank());
  for (int e = 0; e < tokens.n_local_experts(); ++e) {
    const std::array<float, kHeadValues> head = head_of(first + e);
    for (const std::int32_t arrived : tokens.expert_rows(e))
      if (!std::equal(head.begin(), head.end(), arrived_.data() + product(arrived, hidden_)))
        throw EnvironmentError(fmt::format("exchange: a row for expert {} came with other bytes", first + e));
  }
}

void CarriedExchange::round() {
  const std::size_t values = experts_.size() * static_cast<std::size_t>(hidden_);
  collectives::DispatchedTokens tokens;
  std::size_t arrived = 0;
  {
    const Stopwatch watch(wall_s_);
    tokens = exchange_.dispatch({sent_.data(), values}, experts_, weights_);
    arrived = product(tokens.n_rows(), hidden_);
    arrived_.grow(arrived);
    // Where rows lie in their sender's memory this is what moves them.
    tokens.copy_rows_f32({arrived_.data(), arrived});
  }
  check_arrived(tokens);
  {
    const Stopwatch watch(wall_s_);
    exchange_.combine(std::move(tokens), {arrived_.data(), arrived}, {returned_.data(), values});
  }
  if (!std::equal(sent_.data(), sent_.data() + values, returned_.data()))
    throw EnvironmentError("exchange: a row came back with other bytes than it was sent with");
}

void CarriedExchange::move(const emulation::DieStep& step) {
  const auto slots = static_cast<std::size_t>(slots_);
  std::vector<double> rounds;  // [layers][microbatches]
  std::vector<std::vector<std::int32_t>> left;
  for (const emulation::MicrobatchStep& microbatch : step.microbatches) left.push_back(microbatch.rows);
  const std::size_t layers = left.empty() ? 0 : left[0].size() / slots;
  for (std::size_t layer = 0; layer < layers; ++layer)
    for (const std::vector<std::int32_t>& rows : left) {
      std::int64_t sum = 0;
      for (const std::int32_t count : std::span(rows).subspan(layer * slots, slots)) sum += count;
      rounds.push_back(static_cast<double>((sum + slice_rows_ - 1) / slice_rows_));
    }
  take_largest(instance_, rounds, deadline_s_, "the exchanges of a step");
  auto agreed = rounds.begin();
  for (std::size_t layer = 0; layer < layers; ++layer)
    for (std::vector<std::int32_t>& rows : left)
      for (double next = *agreed++; next > 0; --next) {
        fill_slice(std::span(rows).subspan(layer * slots, slots));
        round();
      }
}

Transfers CarriedExchange::transfers() const {
  const ExchangeConfig& config = exchange_.config();
  return {
      .bytes = exchange_.statistics().rows * (row_bytes(config, Phase::dispatch) + row_bytes(config, Phase::combine)),
      .wall_s = wall_s_};
}

std::size_t CarriedExchange::buffer_bytes() const {
  return exchange_.buffer_bytes() + own_bytes(slice_rows_, hidden_, layout_.dies);
}

}  // namespace supernode::serving

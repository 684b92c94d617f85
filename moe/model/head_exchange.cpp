#include "moe/model/head_exchange.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include "runtime/core/mpi/mpi_call.hpp"

namespace supernode::moe {
namespace {

constexpr auto spare_rows = static_cast<std::size_t>(HeadRows<float>::spare_rows);

std::size_t index(int i) { return static_cast<std::size_t>(i); }
float* copy(const float* from, std::size_t count, float* to) {
  std::memcpy(to, from, count * sizeof(float));
  return to + count;
}

/// MPI counts in int.
int floats(std::size_t rows, std::size_t width) { return count_cast(rows * width); }

}  // namespace

HeadExchange::HeadExchange(const Communicator& comm, const ModelConfig& config, double deadline_s)
    : comm_(comm), config_(config), deadline_s_(deadline_s) {
  for (FloatExchange* one : {rows_.get(), back_.get()})
    for (std::vector<int>* numbers :
         {&one->send_counts, &one->send_offsets, &one->receive_counts, &one->receive_offsets})
      numbers->resize(index(comm.size()));
}

template <class Sent, class Received, class Place>
void HeadExchange::lay_out(FloatExchange& f, Sent sent, Received received, Place place) const {
  for (int rank = 0, to = 0; rank < comm_.size(); ++rank) {
    f.send_counts[index(rank)] = sent(rank);
    f.send_offsets[index(rank)] = to;
    to += f.send_counts[index(rank)];
    f.receive_counts[index(rank)] = received(rank);
    f.receive_offsets[index(rank)] = place(rank);
  }
}

void HeadExchange::send_rows(const SharedRows& rows, int layer, const float* q) {
  FloatExchange& f = *rows_;
  const std::size_t kept = index(config_.kv_width()), qk = index(config_.qk_dim());
  const std::size_t all_heads = index(config_.n_heads) * qk;
  const TokenShare mine = share(rows, comm_.rank());
  const auto query_floats = [&](int rank) { return q ? index(heads(rank).count) * qk : 0; };
  const std::size_t width = kept + query_floats(comm_.rank());
  lay_out(
      f, [&](int rank) { return floats(index(mine.count), kept + query_floats(rank)); },
      [&](int rank) { return floats(index(share(rows, rank).count), width); },
      [&](int rank) { return floats(index(share(rows, rank).first), width); });
  f.sent.grow(index(mine.count) * (index(comm_.size()) * kept + (q ? all_heads : 0)));
  const std::size_t needed = (index(rows.count) + spare_rows) * width;
  f.received.grow(needed);
  float* to = f.sent.data();
  for (int rank = 0; rank < comm_.size(); ++rank)
    for (int i = 0; i < mine.count; ++i) {
      to = copy(rows.cache->row(layer, rows.start + mine.first + i), kept, to);
      if (q) to = copy(q + index(i) * all_heads + index(heads(rank).first) * qk, query_floats(rank), to);
    }
  exchange(comm_, rows_, deadline_s_, "the rows of a shared sequence");
  for (int i = 0; i < rows.count; ++i)
    if (i < mine.first || i >= mine.first + mine.count)
      copy(f.received.data() + index(i) * width, kept, rows.cache->row(layer, rows.start + i));
  // Spare rows take part in products.
  std::fill(f.received.data() + index(rows.count) * width, f.received.data() + needed, 0.0f);
}

void HeadExchange::share_cache(const SharedRows& rows, int layer) { send_rows(rows, layer, nullptr); }

HeadRows<const float> HeadExchange::distribute(const SharedRows& rows, int layer, const float* q) {
  send_rows(rows, layer, q);
  const int width = config_.kv_width() + my_heads().count * config_.qk_dim();
  return {rows_->received.data() + config_.kv_width(), width};
}

HeadRows<float> HeadExchange::attended(const SharedRows& rows) {
  const int width = my_heads().count * config_.v_dim;
  back_->sent.grow((index(rows.count) + spare_rows) * index(width));
  return {back_->sent.data(), width};
}

void HeadExchange::collect(const SharedRows& rows, float* heads_out) {
  FloatExchange& f = *back_;
  const std::size_t v = index(config_.v_dim), all_heads = index(config_.n_heads) * v;
  const TokenShare mine = share(rows, comm_.rank());
  const std::size_t width = index(my_heads().count) * v;
  lay_out(
      f, [&](int rank) { return floats(index(share(rows, rank).count), width); },
      [&](int rank) { return floats(index(mine.count), index(heads(rank).count) * v); },
      [&](int rank) { return floats(index(mine.count), index(heads(rank).first) * v); });
  // Rows lie in the order of positions, and so do not follow each other by rank.
  for (int rank = 0; rank < comm_.size(); ++rank)
    f.send_offsets[index(rank)] = floats(index(share(rows, rank).first), width);
  f.received.grow(index(mine.count) * all_heads);
  exchange(comm_, back_, deadline_s_, "the heads of a shared sequence");
  for (int rank = 0; rank < comm_.size(); ++rank) {
    const HeadRange theirs = heads(rank);
    const std::size_t part = index(theirs.count) * v;
    const float* from = f.received.data() + f.receive_offsets[index(rank)];
    for (int i = 0; i < mine.count; ++i, from += part)
      copy(from, part, heads_out + index(i) * all_heads + index(theirs.first) * v);
  }
}

}  // namespace supernode::moe

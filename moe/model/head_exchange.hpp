#pragma once
// Between ranks that share the tokens of one sequence: from rows with all heads to heads with all rows, and back.

#include <memory>

#include "moe/model/activations.hpp"
#include "moe/sequence_chunk.hpp"
#include "runtime/core/mpi/communicator.hpp"
#include "runtime/core/mpi/deadline_collectives.hpp"

namespace supernode::moe {

/// Around attention a rank has its share of the rows, in it some heads of all rows (heads_of()). Two collectives a layer,
/// each a message to every rank:
///
///     distribute   my rows' cached values [kv_width] to all, and their queries of a rank's heads to it
///     collect      of my heads, each rank's rows to it
///
/// All calls are collective; ranks make the same ones with equal SharedRows. Buffers are as large as the largest range
/// so far wants: rows of the range x (kv_width + qk_dim x own heads) are received, as much is sent.
class HeadExchange {
 public:
  /// @param comm outlives it; @param deadline_s longest wait for the other ranks
  HeadExchange(const Communicator& comm, const ModelConfig& config, double deadline_s);

  /// Fills the cache's rows of the other ranks in `layer`. @pre this rank's rows are in it
  void share_cache(const SharedRows& rows, int layer);
  /// The same, and the queries. @param q [my rows, heads, qk_dim] @returns [rows.count, my heads, qk_dim], in the order
  /// of positions, until the next call
  HeadRows<const float> distribute(const SharedRows& rows, int layer, const float* q);
  /// Where to put what came out of attention: [rows.count, my heads, v_dim].
  HeadRows<float> attended(const SharedRows& rows);
  /// Sends it. @param heads_out [my rows, heads, v_dim]
  void collect(const SharedRows& rows, float* heads_out);

  HeadRange my_heads() const { return heads_of(config_.n_heads, comm_.size(), comm_.rank()); }

 private:
  TokenShare share(const SharedRows& rows, int rank) const {
    return share_of(rows.count, comm_.size(), rank, rows.home);
  }
  HeadRange heads(int rank) const { return heads_of(config_.n_heads, comm_.size(), rank); }
  /// Sets counts and offsets and makes room. @param sent, received (rank) -> floats; @param place (rank) -> offset
  template <class Sent, class Received, class Place>
  void lay_out(FloatExchange& floats, Sent sent, Received received, Place place) const;
  /// @param q null: cached values only
  void send_rows(const SharedRows& rows, int layer, const float* q);

  const Communicator& comm_;
  const ModelConfig& config_;
  const double deadline_s_;
  std::unique_ptr<FloatExchange> rows_ = std::make_unique<FloatExchange>();
  std::unique_ptr<FloatExchange> back_ = std::make_unique<FloatExchange>();
};

}  // namespace supernode::moe

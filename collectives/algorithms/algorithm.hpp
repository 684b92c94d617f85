#pragma once
// The interface of algorithms: they carry messages. The messages' form, and everything before and after, is
// TokenExchange's.

#include <memory>

#include "collectives/algorithms/buffer_plan.hpp"
#include "collectives/algorithms/packing.hpp"
#include "collectives/algorithms/round.hpp"
#include "runtime/core/mpi/communicator.hpp"

namespace supernode::collectives {

/// Carries the messages of rounds. Two rounds may be in flight, with different `set`; a round takes the lowest free
/// set, so the choice depends on the sequence of calls alone and is the same on all ranks. All calls are collective in
/// the sense of TokenExchange. After a TimeoutError the object is never used again, nor destroyed.
class ExchangeAlgorithm {
 public:
  virtual ~ExchangeAlgorithm() = default;
  /// round.plan is built. On return `tokens` is free for the caller.
  virtual void begin_dispatch(Round& round, const TokensToSend& tokens) = 0;
  /// Fills arrived and rows_from; the rows stay in place until the round's combine begins.
  virtual void end_dispatch(Round& round) = 0;
  /// round.sums is set, and the messages have been released by the caller.
  virtual void begin_combine(Round& round) = 0;
  /// Fills sums_from (and sums_stride where rows are not in combine messages); they stay in place until the set is used
  /// again.
  virtual void end_combine(Round& round) = 0;
  /// Bytes of the buffers that this rank has allocated, counted in the buffers themselves.
  virtual std::size_t allocated_bytes() const = 0;
};

BufferPlan plan_alltoallv(const ExchangeSetup& setup);
std::unique_ptr<ExchangeAlgorithm> make_alltoallv(const ExchangeSetup& setup, const Communicator& comm);
BufferPlan plan_bruck(const ExchangeSetup& setup);
std::unique_ptr<ExchangeAlgorithm> make_bruck(const ExchangeSetup& setup, const Communicator& comm);
BufferPlan plan_direct(const ExchangeSetup& setup);
std::unique_ptr<ExchangeAlgorithm> make_direct(const ExchangeSetup& setup, const Communicator& comm);
BufferPlan plan_hierarchical(const ExchangeSetup& setup);
std::unique_ptr<ExchangeAlgorithm> make_hierarchical(const ExchangeSetup& setup, const Communicator& comm);
BufferPlan plan_pairwise(const ExchangeSetup& setup);
std::unique_ptr<ExchangeAlgorithm> make_pairwise(const ExchangeSetup& setup, const Communicator& comm);
BufferPlan plan_pull(const ExchangeSetup& setup);
std::unique_ptr<ExchangeAlgorithm> make_pull(const ExchangeSetup& setup, const Communicator& comm);

}  // namespace supernode::collectives

#pragma once
// Collectives with a deadline: a rank that stays away is named, and nobody hangs.

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/core/buffer.hpp"
#include "runtime/core/mpi/communicator.hpp"

namespace supernode {

/// A barrier. Collective. @throws TimeoutError naming the silent ranks after `deadline_s`.
void meet(const Communicator& comm, double deadline_s);

/// Each value becomes its largest over ranks. Collective; all ranks pass as many values.
/// @param occasion what the ranks came to, for messages
/// @throws TimeoutError as meet().
void take_largest(const Communicator& comm, std::span<double> values, double deadline_s,
                  const std::string& occasion = "an agreement");

/// Each value becomes its sum over ranks, added up in double. Otherwise as take_largest().
void add_up(const Communicator& comm, std::span<double> values, double deadline_s,
            const std::string& occasion = "an agreement");

/// What each rank has for each other one, itself among them. Counts and offsets are in floats, [ranks]; the places of
/// what is received may lie in any order.
struct FloatExchange {
  std::vector<int> send_counts, send_offsets, receive_counts, receive_offsets;
  HugePageBuffer<float> sent, received;
};

/// Moves it, all ranks to all. Collective; what a rank sends to another is as long as that one expects.
/// @param floats MPI writes into its buffers until the end, so they outlive a call that fails: it is empty then
/// @throws TimeoutError as meet().
void exchange(const Communicator& comm, std::unique_ptr<FloatExchange>& floats, double deadline_s,
              const std::string& occasion);

}  // namespace supernode

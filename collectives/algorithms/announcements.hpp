#pragma once
// Small messages by which the ranks of several hosts tell each other that something lies ready.

#include <cstring>
#include <type_traits>
#include <vector>

#include "collectives/algorithms/messages.hpp"
#include "collectives/rows/ring.hpp"

namespace supernode::collectives {

/// One announcement to and from each rank of another host, for each phase of a round. `T` fits in a line.
template <class T>
class Announcements {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= line_bytes);

 public:
  Announcements(const ExchangeSetup& setup, const Communicator& comm) : setup_(setup), messages_(setup, comm) {
    for (int i = 0; i < n_round_sets * 2; ++i) lines_.emplace_back(setup.n_ranks);
  }

  /// Before the phase of the round: its announcements may come.
  void begin(Phase phase, const Round& round) {
    Lines& lines = lines_of(phase, round);
    for_ranks([&](int rank) {
      messages_.finish_send(lines.sends[rank], round, "announcement of an earlier", rank);
      messages_.receive(lines.in(rank), line_bytes, rank, message_tag(round.set, phase), lines.receives[rank]);
    });
  }

  void send(Phase phase, const Round& round, int rank, const T& text) {
    Lines& lines = lines_of(phase, round);
    std::memcpy(lines.out(rank), &text, sizeof text);
    messages_.send(lines.out(rank), line_bytes, rank, message_tag(round.set, phase), lines.sends[rank]);
  }

  /// Waits for that of `rank`. @throws TimeoutError "no <phase> message of round 3 from rank <rank>".
  T await(Phase phase, const Round& round, int rank) {
    Lines& lines = lines_of(phase, round);
    messages_.finish_receive(lines.receives[rank], round, name_of(phase), rank);
    T text;
    std::memcpy(&text, lines.in(rank), sizeof text);
    return text;
  }

  /// All ranks of other hosts, in ring order.
  template <class Visit>
  void for_ranks(Visit&& visit) const {
    for_others(setup_.rank, setup_.n_ranks, [&](int rank) {
      if (!setup_.is_local(rank)) visit(rank);
    });
  }

  const Messages& messages() const { return messages_; }

 private:
  /// The lines to and from all ranks in one phase of a round set.
  struct Lines {
    explicit Lines(int ranks)
        : memory(2 * line_bytes * static_cast<std::size_t>(ranks)), sends(ranks), receives(ranks) {
      std::fill_n(memory.data(), memory.size(), std::byte{0});
    }
    std::byte* in(int rank) { return memory.data() + 2 * line_bytes * static_cast<std::size_t>(rank); }
    std::byte* out(int rank) { return in(rank) + line_bytes; }

    Buffer<std::byte> memory;
    std::vector<OwnedRequest> sends, receives;
  };
  Lines& lines_of(Phase phase, const Round& round) {
    return lines_[static_cast<std::size_t>(round.set * 2 + static_cast<int>(phase))];
  }

  const ExchangeSetup& setup_;
  Messages messages_;
  std::vector<Lines> lines_;  // by set and phase
};

}  // namespace supernode::collectives

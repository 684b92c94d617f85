#pragma once
// Small messages by which the ranks of several hosts tell each other that something lies ready.

#include <array>
#include <cstring>
#include <type_traits>
#include <vector>

#include "collectives/algorithms/messages.hpp"

namespace supernode::collectives {

/// One announcement to and from each rank of another host, for each phase of a round. `T` fits in a line.
template <class T>
class Announcements {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= line_bytes);

 public:
  static constexpr int n_phases = 2;  ///< 0: dispatch, 1: combine

  Announcements(const ExchangeSetup& setup, const Communicator& comm) : setup_(setup), messages_(setup, comm) {
    for (auto& of_phase : ways_)
      for (int phase = 0; phase < n_phases; ++phase) of_phase.emplace_back(setup.n_ranks);
  }

  /// Before the phase of the round: its announcements may come.
  void begin(int phase, const RoundBuffers& round) {
    Way& way = ways_[round.set][phase];
    for_ranks([&](int rank) {
      messages_.finish_send(way.sends[rank], round, "announcement of an earlier", rank);
      messages_.receive(way.line_in(rank), line_bytes, rank, message_tag(round.set, phase), way.receives[rank]);
    });
  }

  void send(int phase, const RoundBuffers& round, int rank, const T& text) {
    Way& way = ways_[round.set][phase];
    std::memcpy(way.line_out(rank), &text, sizeof text);
    messages_.send(way.line_out(rank), line_bytes, rank, message_tag(round.set, phase), way.sends[rank]);
  }

  /// Waits for that of `rank`. @throws TimeoutError "no <phase> message of round 3 from rank <rank>".
  T await(int phase, const RoundBuffers& round, int rank) {
    Way& way = ways_[round.set][phase];
    messages_.finish_receive(way.receives[rank], round, phase == 0 ? "dispatch" : "combine", rank);
    T text;
    std::memcpy(&text, way.line_in(rank), sizeof text);
    return text;
  }

  /// All ranks of other hosts, the next ones first, so that not all ranks turn to the same one.
  template <class Visit>
  void for_ranks(Visit&& visit) const {
    for (int step = 1; step < setup_.n_ranks; ++step) {
      const int rank = (setup_.rank + step) % setup_.n_ranks;
      if (!setup_.is_local(rank)) visit(rank);
    }
  }

  const Messages& messages() const { return messages_; }

 private:
  struct Way {
    explicit Way(int ranks) : lines(2 * line_bytes * static_cast<std::size_t>(ranks)), sends(ranks), receives(ranks) {
      std::fill_n(lines.data(), lines.size(), std::byte{0});
    }
    std::byte* line_in(int rank) { return lines.data() + 2 * line_bytes * static_cast<std::size_t>(rank); }
    std::byte* line_out(int rank) { return line_in(rank) + line_bytes; }

    Buffer<std::byte> lines;
    std::vector<OwnedRequest> sends, receives;
  };

  const ExchangeSetup& setup_;
  Messages messages_;
  std::array<std::vector<Way>, n_round_sets> ways_;
};

}  // namespace supernode::collectives

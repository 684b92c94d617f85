#pragma once
// KV that comes to a decode die in pieces: room for a request is made before its prompt is computed, and pieces come in
// while it is. A piece may come before the notice of its request, since the two take different ways. The dies that share
// a prompt each send their parts of it; a part that comes before one in front of it waits. Pure.

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "runtime/serving/wire/messages.hpp"
#include "runtime/serving/workers/step_engine.hpp"

namespace supernode::serving {

class KvIntake {
 public:
  /// `engine` outlives it.
  explicit KvIntake(StepEngine& engine) : engine_(engine) {}

  /// The notice of a request: makes its state, with room for prompt and output, before anything is taken in.
  /// @throws EnvironmentError when there is one already, or a piece that came early does not fit.
  void reserve(const KvNotice& notice);
  /// How much of it will have come in the end. From then on it can be complete.
  /// @throws EnvironmentError without a notice, a second time, or for less than has come.
  void expect(const KvDue& due);
  /// A piece that has come whole from rank `source`, one of those that the notice names, in any order of pieces.
  /// @throws EnvironmentError naming request and fault: another format, tokens beyond the prompt, tokens that came
  /// already, another source than the notice says, a wrong byte (EngineState::import_tokens).
  void take(int source, const KvPiece& piece);
  /// The request has ended: its state is freed now. What is still on its way (expect()) is thrown away when it comes;
  /// of a lost remainder nothing is reported, and no call speaks of the request again.
  /// @throws EnvironmentError, unless its remainder is lost, when it is not here, or pieces of it came and nobody said
  /// how many do.
  void drop(RequestId request, Remainder kv = Remainder::comes);

  /// A request whose KV is here.
  struct Complete {
    KvNotice notice;
    std::int32_t first_token = 0;
    std::unique_ptr<EngineState> state;  ///< null: it was dropped meanwhile
  };
  /// Those whose last piece has come since the last call, in that order.
  std::vector<Complete> take_complete();
  /// Neither a notice nor a piece waits.
  bool empty() const { return noticed_.empty() && early_.empty() && complete_.empty(); }

 private:
  struct Held {
    int source = 0, count = 0;
    std::uint64_t bytes_per_token = 0;
    std::vector<std::byte> bytes, end;
  };
  static Held hold(int source, const KvPiece& piece);
  using HeldPieces = std::map<int, Held>;  ///< by first token
  struct Noticed {
    KvNotice notice;
    std::unique_ptr<EngineState> state;  ///< null: dropped
    HeldPieces waiting;                  ///< behind a gap
    int come = 0;                        ///< tokens, those that wait or were thrown away too
    std::optional<KvDue> due;
  };
  void place(Noticed& noticed, int source, const KvPiece& piece);
  void finish_if_whole(RequestId request);

  StepEngine& engine_;
  std::unordered_map<RequestId, Noticed> noticed_;
  std::unordered_map<RequestId, HeldPieces> early_;  ///< without a notice so far
  std::unordered_set<RequestId> lost_;               ///< whose pieces are thrown away, whenever they come
  std::vector<Complete> complete_;
};

}  // namespace supernode::serving

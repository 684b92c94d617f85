#pragma once
// KV that comes to a decode die in pieces. A piece may come before the notice of it, since the two take different ways.
// Pure.

#include <cstddef>
#include <map>
#include <memory>
#include <unordered_map>
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
  void expect_kv(const KvNotice& notice);
  /// A piece that has come whole from rank `source`, in any order of pieces.
  /// @throws EnvironmentError naming request and fault: another format, tokens beyond the prompt, tokens that came
  /// already, another source than the notice says, a wrong byte (EngineState::import_tokens).
  void take(int source, const KvPiece& piece);

  /// A request whose KV is here.
  struct Complete {
    KvNotice notice;
    std::unique_ptr<EngineState> state;
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
    std::unique_ptr<EngineState> state;
    HeldPieces waiting;  ///< behind a gap
  };
  void place(Noticed& noticed, int source, const KvPiece& piece);
  void finish_if_whole(RequestId request);

  StepEngine& engine_;
  std::unordered_map<RequestId, Noticed> noticed_;
  std::unordered_map<RequestId, HeldPieces> early_;  ///< without a notice so far
  std::vector<Complete> complete_;
};

}  // namespace supernode::serving

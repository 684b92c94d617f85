#pragma once
// Decoding with guesses: the MTP module proposes a token, the model verifies it together with the one it has.

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "moe/sequence_state.hpp"
#include "moe/transformer.hpp"

namespace supernode::moe {

class GuessTrial;

/// Continues sequences of this rank, each by one token a step, or by two where a guess was right. The tokens are those
/// that decoding without guesses gives: a guess is kept only if it is what `choose` takes from the model's own logits,
/// which have the same bits either way (in steps that the model does not cut, see Transformer). Without an MTP module
/// (Transformer::can_draft()) it decodes without guesses, and with Guessing::measured each rank stops guessing when its
/// own clock says that tokens come faster so (GuessTrial).
class SpeculativeDecoder {
 public:
  enum class Guessing { always, measured };

  /// The token for `position` of a sequence from the model's logits. Must depend on its arguments only.
  using Choose = std::function<std::int32_t(std::span<const float> logits, int sequence, int position)>;

  struct Sequence {
    std::vector<std::int32_t> tokens;  ///< prompt and what has been generated
    std::size_t prompt_length = 0, limit = 0;
    /// `limit` tokens, or an end-of-text token, which is not among them; or the state has been released.
    bool finished = false;

    std::span<const std::int32_t> generated() const { return std::span(tokens).subspan(prompt_length); }

   private:
    friend class SpeculativeDecoder;
    SequenceState state;
    std::vector<float> last_hidden;     ///< of the position that the module saw last
    std::optional<std::int32_t> guess;  ///< for the position after tokens
    std::vector<std::int32_t> input;    ///< of the step
  };

  /// Guesses made and kept by this rank.
  struct Counts {
    long long guessed = 0, kept = 0;  ///< guesses verified; those that were right
    double rate() const { return guessed > 0 ? static_cast<double>(kept) / static_cast<double>(guessed) : 0; }
  };

  /// @param model stays alive and is used by nobody else meanwhile
  SpeculativeDecoder(Transformer& model, Choose choose, Guessing guessing = Guessing::always);
  ~SpeculativeDecoder();

  /// A sequence of this rank, to be continued by at most `max_tokens`; prompt and these must fit the model. Returns its
  /// index. Local, between steps.
  int add(std::vector<std::int32_t> prompt, int max_tokens);
  /// The same of a sequence whose first tokens have been computed elsewhere. @param tokens prompt and what followed it,
  /// at least one more than `state` holds; @param prompt_length of `tokens`
  int adopt(SequenceState state, std::vector<std::int32_t> tokens, std::size_t prompt_length, int max_tokens);
  /// Ends a sequence here and gives its state away, which holds the tokens but the last (SequenceState::main); it is
  /// not complete() where no guess was made of late. Local, between steps.
  SequenceState release(int index);
  /// One step for all unfinished sequences of all ranks. Collective over the model's communicator; false when nobody
  /// had any. @throws as Transformer::forward. A sequence that gets logits which are not finite ends without a token;
  /// the next step then throws AgreedError (check failed) on all ranks, naming the position.
  bool step();

  const Sequence& sequence(int index) const { return sequences_[static_cast<std::size_t>(index)]; }
  const Counts& counts() const { return counts_; }
  /// Whether this rank's sequences are still guessed for.
  bool guessing() const;

 private:
  /// Whether this turn has sequences, and each of them a guess: then its input is one token and that.
  bool all_have_guesses() const;
  /// Appends what the model chose after verifying; returns how many of the inputs were right.
  std::size_t verify(int index, const StepResult& result, int first_row);
  /// What `choose` takes from the row for the next position of the sequence; notes a failure where it is not finite.
  std::int32_t choose(std::span<const float> logits, int index);
  void append(Sequence& sequence, std::int32_t token);
  void propose(const StepResult& result, std::span<const std::size_t> verified);

  Transformer& model_;
  Choose choose_;
  Guessing guessing_;
  std::unique_ptr<GuessTrial> trial_;
  std::vector<Sequence> sequences_;
  std::vector<int> active_;  ///< sequences of the step
  Counts counts_;
  std::exception_ptr failure_;  ///< the first that this rank found
};

}  // namespace supernode::moe

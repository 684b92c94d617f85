#pragma once
// What a closed loop that keeps instances full is asked for, and what it comes to.

#include <cstdint>

namespace supernode::serving {

struct SteadyOptions {
  enum class Stage { decode, prefill } stage = Stage::decode;
  int requests = 1;  ///< at a time: of a decode die; for prefill, of a prefill die
  int prompt_tokens = 4096;
  int output_tokens = 1024;  ///< decode only: contexts spread evenly over prompt to prompt + output
  int steps = 40;  ///< iterations of a decode instance, or batches of a prefill instance, until the run is over
  double prefix_share = 0;  ///< prefill: of each prompt's tokens those that its group has in common
  int prefix_groups = 1;
  std::uint64_t seed = 0;  ///< of the prompts' tokens
  int vocabulary = 2;
};

/// What a steady run came to, over the middle half of its steps.
struct SteadyFigures {
  int steps = 0;                ///< that were measured, of each instance
  double step_ms = 0;           ///< mean iteration or batch, as a request sees it
  double tokens_per_s = 0;      ///< output tokens of all decode instances, or prompt tokens of all prefill instances
  double tpot_ms = 0;           ///< decode: how long a request waits for a token, on average
  double requests_per_die = 0;  ///< at a time; fewer than asked for where an objective allows no more
};

}  // namespace supernode::serving

#pragma once
// Which model to run and how: the options that all commands with a model share.

#include <string>

#include "collectives/selection/selection_options.hpp"
#include "moe/transformer.hpp"
#include "runtime/core/config_path.hpp"
#include "runtime/core/options.hpp"

namespace supernode::moe {

struct ModelOptions {
  std::string model = default_model;
  std::string dtype = "f32";
  std::string exchange = "auto";
  /// Not in describe(), set by a command: see TransformerOptions.
  int typical_tokens = 0, draft_experts = 0, draft_window = 0;
  collectives::SelectionOptions selection;
  int max_batch_tokens = 256;
  int threads = 1;
};

/// Adds the options to `section` of the table, and exchange.rules.
void describe(OptionTable& table, const std::string& section, ModelOptions& options);

/// The transformer's options, without the rules of the exchange, which load_model() reads.
/// @param deadline s, for every wait for a peer. @throws UsageError for an unknown type.
TransformerOptions transformer_options(const ModelOptions& options, double deadline);

/// Whether a model's MTP module is loaded, if it has one.
enum class MtpUse { left_out, loaded };

/// The transformer of `options`. Collective over `ep`. @throws as the constructor of Transformer.
Transformer load_model(const ModelOptions& options, double deadline, const Communicator& ep,
                       MtpUse mtp = MtpUse::left_out);

}  // namespace supernode::moe

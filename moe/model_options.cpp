#include "moe/model_options.hpp"

#include <utility>

#include "collectives/rule_file.hpp"
#include "moe/checkpoint.hpp"
#include "runtime/core/log.hpp"
#include "runtime/core/mpi/agreement.hpp"

namespace supernode::moe {

void describe(OptionTable& table, const std::string& section, ModelOptions& o) {
  table.add(section, "model", o.model, "model folder: config.json and safetensors");
  table.add(section, "dtype", o.dtype, "type of the model's matrices").choices({"f32", "bf16", "int8"});
  table.add(section, "exchange", o.exchange, "algorithm of the token exchange");
  collectives::describe(table, o.selection);
  table.add(section, "max_batch_tokens", o.max_batch_tokens, "tokens of a rank that go through the layers at once")
      .range(1, 1 << 20);
  table.add(section, "threads", o.threads, "threads of oneDNN in each rank").range(1, 1024);
}

TransformerOptions transformer_options(const ModelOptions& o, double deadline) {
  TransformerOptions options;
  options.type = parse_compute_type(o.dtype);
  options.max_batch_tokens = o.max_batch_tokens;
  options.exchange = o.exchange;
  options.typical_tokens = o.typical_tokens;
  options.draft_experts = o.draft_experts;
  options.draft_window = o.draft_window;
  options.deadline = deadline;
  options.threads = o.threads;
  return options;
}

Transformer load_model(const ModelOptions& options, double deadline, const Communicator& ep, MtpUse mtp) {
  TransformerOptions wanted = transformer_options(options, deadline);
  wanted.mtp = mtp == MtpUse::loaded;
  wanted.exchange_rules = collectives::load_rules(ep, options.selection);
  Checkpoint checkpoint = collectively(ep, [&] { return Checkpoint(find_model(options.model)); });
  if (ep.rank() == 0 && !checkpoint.unread_note().empty()) log(LogLevel::warning, "{}", checkpoint.unread_note());
  return Transformer(std::move(checkpoint), wanted, ep);
}

}  // namespace supernode::moe

// supernode inspect: what a checkpoint holds, and how much of it each rank needs.
#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "collectives/expert_partition.hpp"
#include "launch/commands.hpp"
#include "moe/checkpoint.hpp"
#include "moe/kv_cache.hpp"
#include "moe/parameter_count.hpp"
#include "runtime/core/config_path.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/log.hpp"

namespace supernode::launch {
namespace {

struct Part {
  std::size_t tensors = 0;
  std::uint64_t parameters = 0, bytes = 0;
};

double mib(double bytes) { return bytes / (1 << 20); }

class InspectCommand : public Command {
 public:
  void describe(OptionTable& table) override {
    table.add("inspect", "model", model_, "model folder, or an HDF5 file that import wrote");
    table.add("inspect", "ranks", ranks_, "rank counts to tell the memory for; empty: powers of 2");
    table.add("inspect", "tensors", list_tensors_, "list every tensor");
  }

  int run(const Context& context) override {
    if (model_.empty()) throw UsageError("--model: a model folder or file is needed");
    if (std::any_of(ranks_.begin(), ranks_.end(), [](int ranks) { return ranks < 1; }))
      throw UsageError("--ranks: a count below 1");
    moe::Checkpoint checkpoint(find_model(model_));
    if (!checkpoint.unread_note().empty()) log(LogLevel::warning, "{}", checkpoint.unread_note());
    const moe::ModelConfig& config = checkpoint.config();
    std::map<moe::ModelPart, Part> parts;  // in the order of their names
    std::map<std::string, std::uint64_t> types;
    Part all;
    Json tensors = Json::array();
    std::string list;
    for (const moe::TensorInfo& tensor : checkpoint.tensors()) {
      std::uint64_t elements = 1;
      for (const std::int64_t size : tensor.shape) elements *= static_cast<std::uint64_t>(size);
      for (Part* part : {&parts[moe::part_of_tensor(tensor.name)], &all}) {
        ++part->tensors;
        part->parameters += elements;
        part->bytes += tensor.bytes;
      }
      types[tensor.type] += tensor.bytes;
      if (!list_tensors_) continue;
      tensors.push_back(
          {{"name", tensor.name}, {"type", tensor.type}, {"shape", tensor.shape}, {"bytes", tensor.bytes}});
      list += fmt::format("{} {} [{}] {}\n", tensor.name, tensor.type, fmt::join(tensor.shape, ", "), tensor.bytes);
    }

    Json part_rows = Json::object(), type_rows = Json::object(), rank_rows = Json::array();
    std::string text = fmt::format(
        "{}: {} layers ({} MTP), hidden {}, {} experts ({} shared), top {}, vocabulary {}\n{}{:<20} {:>8} {:>16} "
        "{:>16}\n",
        checkpoint.directory(), config.n_layers, checkpoint.has_mtp() ? config.n_mtp_layers : 0, config.hidden_size,
        config.n_routed_experts, config.n_shared_experts, config.topk, config.vocab_size, list, "#part", "tensors",
        "parameters", "bytes");
    for (const auto& [id, part] : parts) {
      const std::string name(name_of(id));
      part_rows[name] = {{"tensors", part.tensors}, {"parameters", part.parameters}, {"bytes", part.bytes}};
      text += fmt::format("{:<20} {:>8} {:>16} {:>16}\n", name, part.tensors, part.parameters, part.bytes);
    }
    text += fmt::format("{:<20} {:>8} {:>16} {:>16}\n", "all", all.tensors, all.parameters, all.bytes);
    for (const auto& [type, bytes] : types) type_rows[type] = bytes;

    const Part experts = parts[moe::ModelPart::experts];
    const std::size_t kv_bytes = moe::kv_bytes_per_token(config);
    text += fmt::format("cache: {} bytes per token (f32)\n{:>6} {:>13} {:>16} {:>12} {:>12} {:>12}   MiB of a rank\n",
                        kv_bytes, "#ranks", "experts/rank", "stored", "f32", "bf16", "int8");
    for (const int ranks : rank_counts(config.n_routed_experts)) {
      const collectives::ExpertPartition partition(std::max(config.n_routed_experts, 1), ranks);
      const double share =
          config.n_routed_experts == 0 ? 0 : static_cast<double>(partition.max_count()) / config.n_routed_experts;
      const double stored = static_cast<double>(all.bytes - experts.bytes) + share * static_cast<double>(experts.bytes);
      moe::ParameterCount counted;
      for (const auto& [id, part] : parts) counted[id] = static_cast<double>(part.parameters);
      const auto computed = [&](moe::ComputeType type) { return counted.bytes(type, share); };
      const int held = config.n_routed_experts == 0 ? 0 : partition.max_count();
      rank_rows.push_back({{"ranks", ranks},
                           {"experts_per_rank", held},
                           {"stored_bytes", stored},
                           {"f32_bytes", computed(moe::ComputeType::f32)},
                           {"bf16_bytes", computed(moe::ComputeType::bf16)},
                           {"int8_bytes", computed(moe::ComputeType::int8)}});
      text += fmt::format("{:>6} {:>13} {:>16.2f} {:>12.2f} {:>12.2f} {:>12.2f}\n", ranks, held, mib(stored),
                          mib(computed(moe::ComputeType::f32)), mib(computed(moe::ComputeType::bf16)),
                          mib(computed(moe::ComputeType::int8)));
    }
    Json results{{"model", checkpoint.directory()},
                 {"tensors", all.tensors},
                 {"parameters", all.parameters},
                 {"bytes", all.bytes},
                 {"types", type_rows},
                 {"parts", part_rows},
                 {"kv_bytes_per_token", kv_bytes},
                 {"memory", rank_rows}};
    if (list_tensors_) results["tensor_list"] = tensors;
    report(context, "inspect", results, text);
    return static_cast<int>(ExitCode::good);
  }

 private:
  std::vector<int> rank_counts(int experts) const {
    if (!ranks_.empty()) return ranks_;
    std::vector<int> counts;
    for (int ranks = 1; ranks <= std::max(experts, 1); ranks *= 2) counts.push_back(ranks);
    return counts;
  }

  std::string model_;
  std::vector<int> ranks_;
  bool list_tensors_ = false;
};

}  // namespace

std::unique_ptr<Command> make_inspect() { return std::make_unique<InspectCommand>(); }

}  // namespace supernode::launch

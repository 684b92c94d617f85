// supernode inspect: what a checkpoint holds, and how much of it each rank needs.
#include <algorithm>
#include <map>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

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

/// What a checkpoint holds, added up.
struct Contents {
  std::map<moe::ModelPart, Part> parts;  ///< in the order of their names
  std::map<std::string, std::uint64_t> bytes_by_type;
  Part all;
};

Contents contents_of(std::span<const moe::TensorInfo> tensors) {
  Contents contents;
  for (const moe::TensorInfo& tensor : tensors) {
    std::uint64_t elements = 1;
    for (const std::int64_t size : tensor.shape) elements *= static_cast<std::uint64_t>(size);
    for (Part* part : {&contents.parts[moe::part_of_tensor(tensor.name)], &contents.all}) {
      ++part->tensors;
      part->parameters += elements;
      part->bytes += tensor.bytes;
    }
    contents.bytes_by_type[tensor.type] += tensor.bytes;
  }
  return contents;
}

Written tensor_list(std::span<const moe::TensorInfo> tensors) {
  Written list{Json::array(), {}};
  for (const moe::TensorInfo& tensor : tensors) {
    list.json.push_back(
        {{"name", tensor.name}, {"type", tensor.type}, {"shape", tensor.shape}, {"bytes", tensor.bytes}});
    list.text += fmt::format("{} {} [{}] {}\n", tensor.name, tensor.type, fmt::join(tensor.shape, ", "), tensor.bytes);
  }
  return list;
}

Written part_table(const Contents& contents) {
  Written table{Json::object(), fmt::format("{:<20} {:>8} {:>16} {:>16}\n", "#part", "tensors", "parameters", "bytes")};
  const auto row = [&](std::string_view name, const Part& part) {
    table.text += fmt::format("{:<20} {:>8} {:>16} {:>16}\n", name, part.tensors, part.parameters, part.bytes);
  };
  for (const auto& [id, part] : contents.parts) {
    const std::string name(name_of(id));
    table.json[name] = {{"tensors", part.tensors}, {"parameters", part.parameters}, {"bytes", part.bytes}};
    row(name, part);
  }
  row("all", contents.all);
  return table;
}

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
    const std::vector<moe::TensorInfo> tensors = checkpoint.tensors();
    const Contents contents = contents_of(tensors);
    const Written parts = part_table(contents), memory = memory_table(config, contents);
    Json results{{"model", checkpoint.directory()},
                 {"tensors", contents.all.tensors},
                 {"parameters", contents.all.parameters},
                 {"bytes", contents.all.bytes},
                 {"types", contents.bytes_by_type},
                 {"parts", parts.json},
                 {"kv_bytes_per_token", moe::kv_bytes_per_token(config)},
                 {"memory", memory.json}};
    std::string text = fmt::format("{}: {} layers ({} MTP), hidden {}, {} experts ({} shared), top {}, vocabulary {}\n",
                                   checkpoint.directory(), config.n_layers,
                                   checkpoint.has_mtp() ? config.n_mtp_layers : 0, config.hidden_size,
                                   config.n_routed_experts, config.n_shared_experts, config.topk, config.vocab_size);
    if (list_tensors_) {
      Written list = tensor_list(tensors);
      results["tensor_list"] = std::move(list.json);
      text += list.text;
    }
    report(context, "inspect", results, text + parts.text + memory.text);
    return static_cast<int>(ExitCode::good);
  }

 private:
  /// What a rank needs of the model, by the number of ranks that share the experts.
  Written memory_table(const moe::ModelConfig& config, const Contents& contents) const {
    Written table{
        Json::array(),
        fmt::format("cache: {} bytes per token (f32)\n{:>6} {:>13} {:>16} {:>12} {:>12} {:>12}   MiB of a rank\n",
                    moe::kv_bytes_per_token(config), "#ranks", "experts/rank", "stored", "f32", "bf16", "int8")};
    moe::ParameterCount counted;
    for (const auto& [id, part] : contents.parts) counted[id] = static_cast<double>(part.parameters);
    const auto experts = contents.parts.find(moe::ModelPart::experts);
    const std::uint64_t expert_bytes = experts == contents.parts.end() ? 0 : experts->second.bytes;
    for (const int ranks : rank_counts(config.n_routed_experts)) {
      const bool has_experts = config.n_routed_experts > 0;
      const int held = has_experts ? collectives::ExpertPartition(config.n_routed_experts, ranks).max_count() : 0;
      const double share = has_experts ? static_cast<double>(held) / config.n_routed_experts : 0;
      const double stored =
          static_cast<double>(contents.all.bytes - expert_bytes) + share * static_cast<double>(expert_bytes);
      const double f32 = counted.bytes(moe::ComputeType::f32, share),
                   bf16 = counted.bytes(moe::ComputeType::bf16, share),
                   int8 = counted.bytes(moe::ComputeType::int8, share);
      table.json.push_back({{"ranks", ranks},
                            {"experts_per_rank", held},
                            {"stored_bytes", stored},
                            {"f32_bytes", f32},
                            {"bf16_bytes", bf16},
                            {"int8_bytes", int8}});
      table.text += fmt::format("{:>6} {:>13} {:>16.2f} {:>12.2f} {:>12.2f} {:>12.2f}\n", ranks, held, mib(stored),
                                mib(f32), mib(bf16), mib(int8));
    }
    return table;
  }

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

#include "runtime/serving/record/run_head.hpp"

#include <fmt/format.h>

#include "runtime/core/error.hpp"

namespace supernode::serving {
namespace {

/// Each field exists once: for_fields(value, visit) calls visit("name", field) for all, to write and to read them.
template <class Model, class Visit>
void model_fields(Model& model, Visit visit) {
  visit("name", model.name);
  visit("layers", model.layers);
  visit("dense_layers", model.dense_layers);
  visit("mtp_layers", model.mtp_layers);
  visit("hidden", model.hidden);
  visit("dense_ffn", model.dense_ffn);
  visit("expert_ffn", model.expert_ffn);
  visit("experts", model.experts);
  visit("shared_experts", model.shared_experts);
  visit("topk", model.topk);
  visit("heads", model.heads);
  visit("q_lora", model.q_lora);
  visit("kv_lora", model.kv_lora);
  visit("rope", model.rope);
  visit("nope", model.nope);
  visit("value", model.value);
  visit("vocabulary", model.vocabulary);
}

template <class Setup, class Visit>
void setup_fields(Setup& setup, Visit visit) {
  visit("layout_dies", setup.layout.dies);
  visit("shared_dies", setup.layout.shared_dies);
  visit("redundant", setup.layout.redundant);
  visit("early_quantisation", setup.exchange.early_quantisation);
  visit("direct_writes", setup.exchange.direct_writes);
  visit("mtp", setup.mtp);
  visit("prepared_graphs", setup.prepared_graphs);
  visit("attention_share", setup.attention_share);
  visit("block_tokens", setup.block_tokens);
}

/// Takes fields out of an object.
class FieldReader {
 public:
  FieldReader(const Json& json, const std::string& source) : json_(json), source_(source) {
    if (!json.is_object()) throw UsageError(fmt::format("{}: no JSON object", source));
  }
  template <class Field>
  void operator()(const char* name, Field& field) const {
    const auto found = json_.find(name);
    if (found == json_.end()) throw UsageError(fmt::format("{}: '{}' is missing", source_, name));
    try {
      field = found->template get<Field>();
    } catch (const Json::exception&) {
      throw UsageError(fmt::format("{}: '{}' is of another type", source_, name));
    }
  }

 private:
  const Json& json_;
  const std::string& source_;
};

}  // namespace

Json to_json(const emulation::ModelShape& model) {
  Json json = Json::object();
  model_fields(model, [&](const char* name, const auto& field) { json[name] = field; });
  return json;
}

Json to_json(const emulation::StepSetup& setup, const std::vector<int>& dies) {
  Json json = Json::object();
  setup_fields(setup, [&](const char* name, const auto& field) { json[name] = field; });
  if (setup.joins_microbatches) json["joins_microbatches"] = true;
  json["network"] = setup.network == emulation::PoolNetwork::fabric ? "fabric" : "vpc";
  json["dies"] = dies;
  return json;
}

emulation::ModelShape model_from_json(const Json& json, const std::string& source) {
  emulation::ModelShape model;
  model_fields(model, FieldReader(json, source));
  return model;
}

void instance_from_json(const Json& json, const std::string& source, RunHead::Instance& instance) {
  const FieldReader read(json, source);
  setup_fields(instance.setup, read);
  instance.setup.stage = instance.id.stage;
  if (json.contains("joins_microbatches")) read("joins_microbatches", instance.setup.joins_microbatches);
  std::string network;
  read("network", network);
  if (network != "fabric" && network != "vpc") throw UsageError(fmt::format("{}: network '{}'", source, network));
  instance.setup.network = network == "fabric" ? emulation::PoolNetwork::fabric : emulation::PoolNetwork::vpc;
  read("dies", instance.dies);
}

}  // namespace supernode::serving

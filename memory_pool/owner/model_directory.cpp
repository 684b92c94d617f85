#include "memory_pool/owner/model_directory.hpp"

#include "runtime/core/error.hpp"

namespace supernode::pool::internal {

ModelDirectory::Answer ModelDirectory::step(ModelStep step, const Key& key, std::uint64_t claimant, double now) {
  if (step == ModelStep::claim) return {claim(key, claimant, now), key};
  if (step == ModelStep::make_room) {
    const std::optional<Key> victim = oldest(key);
    if (!victim) return {Status::full, {}};
    models_.erase(*victim);
    return {Status::removed, *victim};
  }
  const auto found = models_.find(key);
  if (found == models_.end()) return {Status::not_there, key};
  Model& model = found->second;
  switch (step) {
    case ModelStep::resident:
      if (model.claimant != claimant) return {Status::not_there, key};
      model.resident = true;
      model.used = ++clock_;
      return {Status::stored, key};
    case ModelStep::forget:
      models_.erase(found);
      return {Status::removed, key};
    case ModelStep::pin:
      if (!model.resident) return {Status::not_there, key};
      ++model.pins;
      model.used = ++clock_;
      return {Status::stored, key};
    case ModelStep::unpin:
      if (model.pins == 0) return {Status::not_there, key};
      --model.pins;
      return {Status::stored, key};
    default:
      panic("a step of the model directory that is none");
  }
}

Status ModelDirectory::claim(const Key& key, std::uint64_t claimant, double now) {
  Model& model = models_[key];
  if (model.resident) {
    model.used = ++clock_;
    return Status::already_there;
  }
  if (model.claimant != claimant && model.claimed_until > now) return Status::full;
  model.claimant = claimant;
  model.claimed_until = now + lease_;
  return Status::stored;
}

std::optional<Key> ModelDirectory::oldest(const Key& other_than) const {
  const Model* oldest = nullptr;
  std::optional<Key> key;
  for (const auto& [name, model] : models_) {
    if (!model.resident || model.pins > 0 || name == other_than || (oldest && oldest->used < model.used)) continue;
    oldest = &model;
    key = name;
  }
  return key;
}

}  // namespace supernode::pool::internal

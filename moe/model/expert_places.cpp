#include "moe/expert_places.hpp"

#include <utility>

#include "moe/model/moe_block.hpp"
#include "runtime/core/error.hpp"

namespace supernode::moe {

const std::vector<int>& ExpertPlaces::placement(int layer) const { return block(layer).experts().placement(); }

std::string ExpertPlaces::format() const {
  std::string format;
  for (const MoeBlock* layer : layers_) {
    const std::string one = layer->experts().format(*gemm_);
    if (!format.empty() && one != format)
      throw UsageError("experts of the model's layers are packed in different ways: " + format + ", " + one);
    format = one;
  }
  return format;
}

std::size_t ExpertPlaces::expert_bytes() const { return layers_.empty() ? 0 : block(0).experts().expert_bytes(); }

void ExpertPlaces::read(int layer, int expert, std::size_t first, std::span<std::byte> out) {
  block(layer).experts().read(expert, first, out);
}

void ExpertPlaces::stage(int layer, int expert, std::size_t first, std::span<const std::byte> bytes) {
  block(layer).experts().stage(expert, first, bytes, *gemm_);
}

void ExpertPlaces::drop_staged() {
  for (MoeBlock* layer : layers_) layer->experts().drop_staged();
}

void ExpertPlaces::place(int layer, std::vector<int> placement) { block(layer).experts().place(std::move(placement)); }

}  // namespace supernode::moe

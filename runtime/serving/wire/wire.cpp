#include "runtime/serving/wire/wire.hpp"

namespace supernode::serving {

std::vector<std::byte> pack(const PrefillBatch& batch) {
  ByteWriter writer;
  writer.put<std::uint64_t>(batch.items.size());
  for (const PrefillBatch::Item& item : batch.items) {
    writer.put(item.request).put(item.output_tokens).put(item.decode_rank);
    writer.put_all(std::span<const std::int32_t>(item.prompt));
  }
  return writer.take();
}

PrefillBatch unpack_prefill_batch(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  PrefillBatch batch;
  batch.items.resize(reader.get<std::uint64_t>());
  for (PrefillBatch::Item& item : batch.items) {
    item.request = reader.get<std::int64_t>();
    item.output_tokens = reader.get<std::int32_t>();
    item.decode_rank = reader.get<std::int32_t>();
    item.prompt = reader.get_all<std::int32_t>();
  }
  return batch;
}

}  // namespace supernode::serving

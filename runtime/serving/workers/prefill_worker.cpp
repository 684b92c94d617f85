#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "memory_pool/context_cache.hpp"
#include "runtime/core/clock.hpp"
#include "runtime/core/json.hpp"
#include "runtime/serving/coordinator/events.hpp"
#include "runtime/serving/workers/worker_inbox.hpp"

namespace supernode::serving {
namespace {

Nanoseconds to_nanoseconds(double seconds) { return static_cast<Nanoseconds>(seconds * 1e9); }

/// A request while this die works on it.
struct Sequence {
  const PrefillBatch::Item* item = nullptr;
  moe::KvCache cache;
  std::vector<pool::Key> keys;            ///< of the prompt's full blocks
  std::vector<std::byte> prefix;          ///< KV of the blocks that the pool has
  std::optional<pool::PendingLoad> load;  ///< of `prefix`, which it writes
  int loaded_blocks = 0;
};

class PrefillWorker {
 public:
  explicit PrefillWorker(const WorkerContext& context)
      : context_(context), inbox_(context), kv_outbox_(*context.transfer) {
    if (!context.pool) return;
    client_.emplace(*context.pool, "default");
    const moe::KvCache probe = context.model->make_cache();
    const int block_tokens = context.config->context_block_tokens;
    blocks_.emplace(*client_,
                    pool::ContextCacheConfig{context.model_name, block_tokens,
                                             probe.bytes_per_token() * static_cast<std::size_t>(block_tokens)});
  }

  void run() {
    for (;;) {
      const Message message = inbox_.wait([this] { return background(); });
      if (static_cast<MessageKind>(message.tag) == MessageKind::stop) break;
      expect(static_cast<MessageKind>(message.tag) == MessageKind::prefill_batch, "a prefill die got an odd command");
      prefill(unpack_prefill_batch(message.bytes));
    }
    kv_outbox_.flush(context_.deadline_s);
    if (client_) {
      client_->drain(context_.deadline_s);
      client_->flush_touches();
    }
    inbox_.report_stopped(statistics());
  }

 private:
  bool background() { return client_ && client_->progress(); }

  void prefill(const PrefillBatch& batch) {
    std::vector<Sequence> sequences(batch.items.size());
    std::vector<PrefillResult> results(batch.items.size());
    std::vector<moe::SequenceChunk> chunks;
    for (std::size_t i = 0; i < batch.items.size(); ++i) {
      Sequence& sequence = sequences[i];
      sequence.item = &batch.items[i];
      sequence.cache = context_.model->make_cache();
      sequence.cache.reserve(static_cast<int>(sequence.item->prompt.size()));
      const WallTime start = wall_now();
      ask_for_prefix(sequence);
      results[i].pool = to_nanoseconds((wall_now() - start).value);
    }
    for (std::size_t i = 0; i < batch.items.size(); ++i) {
      Sequence& sequence = sequences[i];
      const WallTime start = wall_now();
      take_prefix(sequence);
      results[i].pool += to_nanoseconds((wall_now() - start).value);
      results[i].request = static_cast<std::size_t>(sequence.item->request);
      results[i].hit_tokens = sequence.cache.length();
      results[i].computed_tokens = static_cast<int>(sequence.item->prompt.size()) - results[i].hit_tokens;
      chunks.push_back({&sequence.cache,
                        std::span(sequence.item->prompt).subspan(static_cast<std::size_t>(sequence.cache.length()))});
    }

    const moe::StepResult step = context_.model->forward(chunks);
    const Nanoseconds exchange = to_nanoseconds(context_.model->last_step().exchange);
    for (std::size_t i = 0; i < results.size(); ++i) {
      results[i].exchange = exchange;
      results[i].first_token =
          moe::sample(step.row(static_cast<int>(i)), context_.sampler, static_cast<std::uint64_t>(results[i].request),
                      static_cast<int>(sequences[i].item->prompt.size()));
    }
    inbox_.report(MessageKind::prefill_reported, ByteWriter().put_all(std::span<const PrefillResult>(results)).take());
    // The tokens are on their way; what follows is off the path of the first token.
    for (Sequence& sequence : sequences) {
      hand_over(sequence);
      store_blocks(sequence);
    }
  }

  /// Begins to load the leading blocks that the pool holds, leaving at least one token to compute. While they are on
  /// their way, the next prompt's blocks are looked up.
  void ask_for_prefix(Sequence& sequence) {
    if (!blocks_) return;
    const auto& prompt = sequence.item->prompt;
    sequence.keys = blocks_->keys(prompt);
    const int usable =
        blocks_->usable_blocks(blocks_->longest_prefix(sequence.keys).blocks, static_cast<int>(prompt.size()));
    if (usable == 0) return;
    const std::size_t block_bytes = blocks_->config().block_bytes;
    sequence.prefix.resize(block_bytes * static_cast<std::size_t>(usable));
    std::vector<std::span<std::byte>> destinations;
    for (std::size_t b = 0; b < static_cast<std::size_t>(usable); ++b)
      destinations.push_back(std::span(sequence.prefix).subspan(b * block_bytes, block_bytes));
    sequence.load = blocks_->start_load(sequence.keys, 0, destinations);
  }

  /// Each block goes into the cache as soon as it has come, while others are on their way.
  void take_prefix(Sequence& sequence) {
    if (!sequence.load) return;
    const std::size_t block_bytes = blocks_->config().block_bytes;
    for (bool ended = false; !ended;) {
      ended = sequence.load->wait(0.001);
      const int blocks = sequence.load->result().blocks, fresh = blocks - sequence.loaded_blocks;
      if (fresh == 0) continue;
      const int tokens = blocks_->config().block_tokens;
      sequence.cache.import_tokens(sequence.loaded_blocks * tokens, fresh * tokens,
                                   std::span(sequence.prefix)
                                       .subspan(block_bytes * static_cast<std::size_t>(sequence.loaded_blocks),
                                                block_bytes * static_cast<std::size_t>(fresh)));
      sequence.loaded_blocks = blocks;
    }
    sequence.load.reset();
    sequence.prefix = {};
  }

  void hand_over(const Sequence& sequence) {
    if (sequence.item->output_tokens == 1) return;
    const int tokens = sequence.cache.length();
    std::vector<std::byte> bytes(sequence.cache.bytes_per_token() * static_cast<std::size_t>(tokens));
    sequence.cache.export_tokens(0, tokens, bytes);
    kv_outbox_.send(sequence.item->decode_rank, kv_tag(sequence.item->request), std::move(bytes));
  }

  void store_blocks(const Sequence& sequence) {
    if (!blocks_) return;
    const int block_tokens = blocks_->config().block_tokens;
    for (std::size_t b = static_cast<std::size_t>(sequence.loaded_blocks); b < sequence.keys.size(); ++b) {
      std::vector<std::byte> bytes(blocks_->config().block_bytes);
      sequence.cache.export_tokens(static_cast<int>(b) * block_tokens, block_tokens, bytes);
      if (!blocks_->store(sequence.keys[b], std::move(bytes))) ++dropped_blocks_;
    }
  }

  std::string statistics() const {
    Json counts{
        {"lookups", 0}, {"hits", 0}, {"stored", 0}, {"dropped", dropped_blocks_}, {"miss_reasons", Json::object()}};
    if (client_) {
      const pool::ClientStats& stats = client_->stats();
      counts["lookups"] = stats.lookups.asked;
      counts["hits"] = stats.lookups.hits;
      counts["stored"] = stats.stores[static_cast<std::size_t>(pool::Status::stored)];
      for (std::size_t reason = 1; reason < pool::miss_reason_count; ++reason)
        if (stats.lookups.by_reason[reason] > 0)
          counts["miss_reasons"][std::string(to_string(static_cast<pool::MissReason>(reason)))] =
              stats.lookups.by_reason[reason];
    }
    return counts.dump();
  }

  const WorkerContext& context_;
  WorkerInbox inbox_;
  Mailbox kv_outbox_;
  std::optional<pool::Client> client_;
  std::optional<pool::ContextCache> blocks_;
  std::uint64_t dropped_blocks_ = 0;
};

}  // namespace

void run_prefill_worker(const WorkerContext& context) { PrefillWorker(context).run(); }

}  // namespace supernode::serving

#include <exception>
#include <list>
#include <map>

#include <fmt/format.h>

#include "runtime/core/mpi/mpi_call.hpp"
#include "runtime/serving/coordinator/events.hpp"
#include "runtime/serving/workers/worker_inbox.hpp"

namespace supernode::serving {
namespace {

/// A request on this die, from the notice of its KV to its last token.
struct Sequence {
  KvNotice notice;
  moe::KvCache cache;
  std::int32_t last_token = 0;
  int generated = 1;  ///< output tokens so far; prefill gave the first
};

/// KV under way to this die.
struct Transfer {
  KvNotice notice;
  std::vector<std::byte> bytes;
  OwnedRequest request;
};

class DecodeWorker {
 public:
  explicit DecodeWorker(const WorkerContext& context) : context_(context), inbox_(context) {}
  ~DecodeWorker() {
    // As in Mailbox: what MPI may still write into outlives an error.
    if (std::uncaught_exceptions() > 0) new std::list<Transfer>(std::move(transfers_));
  }
  DecodeWorker(const DecodeWorker&) = delete;
  DecodeWorker& operator=(const DecodeWorker&) = delete;

  void run() {
    for (;;) {
      const Message message = inbox_.wait([this] { return take_in(); });
      switch (static_cast<MessageKind>(message.tag)) {
        case MessageKind::fetch_kv:
          fetch(unpack_one<KvNotice>(message.bytes));
          break;
        case MessageKind::iterate:
          iterate(ByteReader(message.bytes).get_all<std::size_t>());
          break;
        case MessageKind::stop:
          inbox_.report_stopped("");
          return;
        default:
          panic(fmt::format("a decode die got message {}", message.tag));
      }
    }
  }

 private:
  void fetch(const KvNotice& notice) {
    Sequence sequence{notice, context_.model->make_cache(), notice.first_token, 1};
    // Room for the whole output now, so that no iteration allocates.
    sequence.cache.reserve(notice.prompt_tokens + notice.output_tokens);
    Transfer& transfer = transfers_.emplace_back();
    transfer.notice = notice;
    transfer.bytes.resize(sequence.cache.bytes_per_token() * static_cast<std::size_t>(notice.prompt_tokens));
    SUPERNODE_MPI(MPI_Irecv(transfer.bytes.data(), count_cast(transfer.bytes.size(), "KV bytes"), MPI_BYTE,
                            notice.prefill_rank, kv_tag(notice.request), context_.transfer->get(),
                            transfer.request.out()));
    ready_.emplace(static_cast<std::size_t>(notice.request), std::move(sequence));
  }

  /// Takes in KV that has arrived. @returns whether any has.
  bool take_in() {
    bool any = false;
    for (auto transfer = transfers_.begin(); transfer != transfers_.end();) {
      if (!completed(*transfer->request.out())) {
        ++transfer;
        continue;
      }
      const auto request = static_cast<std::size_t>(transfer->notice.request);
      ready_.at(request).cache.import_tokens(0, transfer->notice.prompt_tokens, transfer->bytes);
      inbox_.report(MessageKind::kv_arrived, pack_one(request));
      transfer = transfers_.erase(transfer);
      any = true;
    }
    return any;
  }

  /// One iteration of the whole instance: every running request of this die gets one token.
  void iterate(const std::vector<std::size_t>& joins) {
    for (const std::size_t request : joins) running_.push_back(std::move(ready_.extract(request).mapped()));
    std::vector<moe::SequenceChunk> chunks;
    for (Sequence& sequence : running_) chunks.push_back({&sequence.cache, std::span(&sequence.last_token, 1)});

    const moe::StepResult step = context_.model->forward(chunks);
    std::vector<DecodeReported::Token> tokens;
    int row = 0;
    for (Sequence& sequence : running_) {
      const int position = sequence.notice.prompt_tokens + sequence.generated++;
      sequence.last_token =
          moe::sample(step.row(row++), context_.sampler, static_cast<std::uint64_t>(sequence.notice.request), position);
      tokens.push_back({static_cast<std::size_t>(sequence.notice.request), sequence.last_token});
    }
    const auto exchange = static_cast<Nanoseconds>(context_.model->last_step().exchange * 1e9);
    inbox_.report(MessageKind::decode_reported,
                  ByteWriter().put(exchange).put_all(std::span<const DecodeReported::Token>(tokens)).take());
    running_.remove_if([](const Sequence& sequence) { return sequence.generated == sequence.notice.output_tokens; });
  }

  const WorkerContext& context_;
  WorkerInbox inbox_;
  std::list<Transfer> transfers_;          ///< a list: MPI writes into the elements
  std::map<std::size_t, Sequence> ready_;  ///< told of, not yet joined
  std::list<Sequence> running_;            ///< in order of joining
};

}  // namespace

void run_decode_worker(const WorkerContext& context) { DecodeWorker(context).run(); }

}  // namespace supernode::serving

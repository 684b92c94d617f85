#include "runtime/serving/fleet/wall_fleet.hpp"

#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include "runtime/core/clock.hpp"
#include "runtime/core/mpi/deadline.hpp"
#include "runtime/serving/roles.hpp"

namespace supernode::serving {

WallFleet::WallFleet(const ServingConfig& config, const std::vector<Request>& requests, Mailbox& mailbox,
                     double deadline_s)
    : config_(config),
      requests_(requests),
      mailbox_(mailbox),
      deadline_s_(deadline_s),
      start_s_(wall_now().value),
      last_watch_s_(start_s_),
      by_arrival_(requests.size()) {
  std::iota(by_arrival_.begin(), by_arrival_.end(), std::size_t{0});
  std::stable_sort(by_arrival_.begin(), by_arrival_.end(),
                   [&](std::size_t a, std::size_t b) { return requests[a].arrival_s < requests[b].arrival_s; });
}

Nanoseconds WallFleet::now() const { return static_cast<Nanoseconds>((wall_now().value - start_s_) * 1e9); }

Event WallFleet::next() {
  SpinWait spin(true);
  for (;;) {
    if (next_arrival_ < by_arrival_.size()) {
      const std::size_t request = by_arrival_[next_arrival_];
      const auto due = static_cast<Nanoseconds>(requests_[request].arrival_s * 1e9);
      if (now() >= due) {
        ++next_arrival_;
        // The arrival is when the trace says, not when the coordinator got round to it: the difference is queueing.
        return {due, Arrived{request}};
      }
    }
    if (const std::optional<Message> message = mailbox_.poll()) return decode(*message);
    watch();
    spin.turn();
  }
}

Event WallFleet::decode(const Message& message) {
  const Part part = part_of(config_, message.source);
  const DieId die{part.instance, part.die};
  Owed& owed = owed_[message.source];
  --owed.count;
  owed.since_s = wall_now().value;
  ByteReader reader(message.bytes);
  switch (static_cast<MessageKind>(message.tag)) {
    case MessageKind::prefill_reported:
      return {now(), PrefillReported{die, reader.get_all<PrefillResult>()}};
    case MessageKind::kv_arrived:
      return {now(), KvArrived{die, reader.get<std::size_t>()}};
    case MessageKind::decode_reported: {
      DecodeReported report{die, reader.get<Nanoseconds>(), {}};
      report.tokens = reader.get_all<DecodeReported::Token>();
      return {now(), std::move(report)};
    }
    default:
      panic(fmt::format("the coordinator got message {} from rank {}", message.tag, message.source));
  }
}

void WallFleet::perform(const Command& command, Nanoseconds) {
  if (const auto* start = std::get_if<StartPrefill>(&command)) {
    for (std::size_t die = 0; die < start->by_die.size(); ++die) {
      PrefillBatch batch;
      for (const StartPrefill::Item& item : start->by_die[die]) {
        const Request& request = requests_[item.request];
        batch.items.push_back({static_cast<std::int64_t>(item.request), request.output_tokens,
                               decode_rank(config_, item.decode.instance, item.decode.die), request.prompt});
      }
      const int rank = prefill_rank(config_, start->instance, static_cast<int>(die));
      send(rank, MessageKind::prefill_batch, pack(batch));
      expect_report(rank, "a prefill batch");
    }
  } else if (const auto* fetch = std::get_if<FetchKv>(&command)) {
    const Request& request = requests_[fetch->request];
    const int rank = decode_rank(config_, fetch->decode.instance, fetch->decode.die);
    send(rank, MessageKind::fetch_kv,
         pack_one(KvNotice{static_cast<std::int64_t>(fetch->request),
                           prefill_rank(config_, fetch->prefill.instance, fetch->prefill.die),
                           static_cast<std::int32_t>(request.prompt.size()), request.output_tokens,
                           fetch->first_token}));
    expect_report(rank, "a KV hand-over");
  } else {
    const auto& iterate = std::get<StartDecode>(command);
    for (std::size_t die = 0; die < iterate.joins_by_die.size(); ++die) {
      const int rank = decode_rank(config_, iterate.instance, static_cast<int>(die));
      send(rank, MessageKind::iterate,
           ByteWriter().put_all(std::span<const std::size_t>(iterate.joins_by_die[die])).take());
      expect_report(rank, "a decode iteration");
    }
  }
}

std::map<int, std::string> WallFleet::stop() {
  const int first_cache = cache_rank(config_, 0);
  for (int rank = 1; rank < first_cache; ++rank) send(rank, MessageKind::stop, {});
  std::map<int, std::string> last_words;
  wait_until(
      [&] {
        while (const std::optional<Message> message = mailbox_.poll()) {
          const std::vector<char> text = ByteReader(message->bytes).get_all<char>();
          last_words[message->source] = std::string(text.begin(), text.end());
        }
        return static_cast<int>(last_words.size()) == first_cache - 1;
      },
      deadline_s_,
      [&] {
        int silent = 1;
        while (last_words.contains(silent)) ++silent;
        return fmt::format("rank 0 (coordinator): rank {} ({}) did not stop", silent,
                           to_string(part_of(config_, silent).role));
      },
      true);
  mailbox_.flush(deadline_s_);
  return last_words;
}

void WallFleet::send(int rank, MessageKind kind, std::vector<std::byte> bytes) {
  mailbox_.send(rank, static_cast<int>(kind), std::move(bytes));
}

void WallFleet::expect_report(int rank, const char* what) {
  Owed& owed = owed_[rank];
  if (owed.count++ == 0) owed.since_s = wall_now().value;
  owed.what = what;
}

void WallFleet::watch() {
  const double now_s = wall_now().value;
  if (now_s - last_watch_s_ < deadline_s_ / 8) return;  // it looks at every rank; a turn of the loop must not
  last_watch_s_ = now_s;
  for (int rank = 1; rank < cache_rank(config_, 0); ++rank) send(rank, MessageKind::keep_alive, {});
  for (const auto& [rank, owed] : owed_) {
    if (owed.count == 0 || now_s - owed.since_s < deadline_s_) continue;
    const Part part = part_of(config_, rank);
    throw TimeoutError(
        fmt::format("rank 0 (coordinator): rank {} ({} instance {}, die {}) did not report {} within {} s", rank,
                    to_string(part.role), part.instance, part.die, owed.what, deadline_s_));
  }
}

}  // namespace supernode::serving

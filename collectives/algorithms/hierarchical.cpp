// hierarchical: a row goes once to each *host* that holds any of its experts; there everybody reads it in shared
// memory.
//
// Words. The *gateway* of a source rank on another host is the member with the source's place among the members of its
// own host, modulo their number (HostMap); it *serves* the source. A rank's *segment* lies in memory that all ranks of
// its host share. For each of the two round sets it holds a *bundle* (BundleLayout: each row once, and for each member
// which rows are its own) from the rank itself and from every source that it serves, the sums for the origins on the
// own host, and for every source it serves the message with the host's sums.
//
//   dispatch: quantise every row into one bundle for each host that wants it. The one for the own host lies in place: a
//             flag tells. Each other bundle is one message to the source's gateway, which receives it into its segment
//             and raises a flag. All ranks poll the flags (acquire) and use the rows where they lie.
//   combine:  sums for origins on the own host wait in the segment, behind a flag. Sums for other origins are written
//             into the message of the origin's gateway, each rank behind the ranks before it, and flagged there; when
//             all members have done so the gateway sends the message. Sums are not added up on the way: the origin adds
//             them in the order that all algorithms keep.
//
// Steps: 2 each way (message, flag). Messages a rank: one to each other host there; back one for each source that it
// serves, (ranks - own host's ranks) / (own host's ranks) on average. Bytes between hosts: there a row for each host
// instead of each rank, back as many rows as with the others, in fewer messages. With one host this is pull.
//
// Who waits for whom: gateways forward in dispatch_end and combine_end, while they wait for their own rows, and leave
// when their own and their forwarding are done. What they forward was sent in a begin, before anybody waits. So every
// wait is for a rank on its way to the same call: no cycle.
//
// When memory may be written again. Take two rounds r < q of a set; combine_end(r) precedes dispatch_begin(q) on every
// rank.
//   Bundles at a rank (own or served): written for q after its combine_end(r), in which it waited for flags of r by all
//     members, for every bundle. A member raises them in combine_begin(r), after its caller gave the rows back.
//   Bundles on the way: their sends have been waited for in dispatch_begin(q).
//   Sums for an origin of the host: written for q in combine_begin(q), after dispatch_end(q) saw the origin's bundle of
//     q, which the origin began after its combine_end(r) had added up the sums of r.
//   Messages with sums at a gateway: members write them for q in combine_begin(q), after they saw the flag of the
//     source's bundle of q. The gateway raises that flag when the send of the message of r is complete.

#include <cstring>
#include <string>
#include <vector>

#include "collectives/algorithms/algorithm.hpp"
#include "collectives/algorithms/bundle.hpp"
#include "collectives/algorithms/host_memory.hpp"
#include "collectives/algorithms/messages.hpp"
#include "collectives/algorithms/segment.hpp"
#include "collectives/algorithms/wait_for_peer.hpp"
#include "collectives/rows/ring.hpp"

namespace supernode::collectives {
namespace {

/// Flags and regions in the segments of a host. Bundle 0 of a rank is its own; 1, 2, ... come from the sources that it
/// serves. All segments of a host have room for as many bundles as its busiest rank has.
class HostSegment {
 public:
  HostSegment(const ExchangeSetup& setup, int host)
      : members_(setup.hosts.n_members(host)),
        bundles_(1),
        bundle_of_(setup.n_ranks),
        bundle_bytes_(BundleLayout(setup.dispatch).most_bytes(setup.config.max_tokens, members_)),
        message_bytes_(setup.combine.row_stride() * setup.max_rows_to(members_)),
        layout_(number_bundles(setup, host)),
        bundle_region_(layout_.add_region(bundle_bytes_ * static_cast<std::size_t>(bundles_))),
        first_rows_(layout_.add_region(sizeof(std::int32_t) * static_cast<std::size_t>(members_))),
        sums_(layout_.add_region(setup.combine.bytes(setup.config.max_tokens) * static_cast<std::size_t>(members_))),
        messages_(layout_.add_region(message_bytes_ * static_cast<std::size_t>(bundles_ - 1))) {}

  const Segment& layout() const { return layout_; }
  /// Number of the bundle of `source` at its gateway.
  int bundle_of(int source) const { return bundle_of_[source]; }

  /// Raised when a bundle is complete.
  std::size_t bundle_flag(int set, int bundle) const { return bundle_flags(set) + static_cast<std::size_t>(bundle); }
  /// Raised by a member when its part of a message is complete. Bundle 0: when a member's own sums are.
  std::size_t sum_flag(int set, int bundle, int member) const {
    return bundle_flags(n_round_sets) + sum_flags() * static_cast<std::size_t>(set) +
           static_cast<std::size_t>(bundle * members_ + member);
  }

  std::size_t bundle(int set, int bundle) const {
    return layout_.offset(set, bundle_region_) + bundle_bytes_ * static_cast<std::size_t>(bundle);
  }
  std::size_t bundle_bytes() const { return bundle_bytes_; }
  /// [members] index of the first row of each origin of the host among the sums.
  std::size_t first_rows(int set) const { return layout_.offset(set, first_rows_); }
  std::size_t sums(int set) const { return layout_.offset(set, sums_); }
  /// The message with sums for the source of `bundle`, from 1.
  std::size_t message(int set, int bundle) const {
    return layout_.offset(set, messages_) + message_bytes_ * static_cast<std::size_t>(bundle - 1);
  }

 private:
  /// Gives every source of another host a bundle at its gateway. Returns the flags that this makes.
  std::size_t number_bundles(const ExchangeSetup& setup, int host) {
    std::vector<int> served(static_cast<std::size_t>(members_), 0);
    for (int source = 0; source < setup.n_ranks; ++source) {
      if (setup.hosts.host_of(source) == host) continue;
      const int gateway = setup.hosts.member_of(setup.hosts.gateway(source, host));
      bundle_of_[source] = ++served[gateway];
      bundles_ = std::max(bundles_, 1 + served[gateway]);
    }
    return bundle_flags(n_round_sets) + n_round_sets * sum_flags();
  }
  std::size_t bundle_flags(int sets) const { return static_cast<std::size_t>(sets * bundles_); }
  std::size_t sum_flags() const { return static_cast<std::size_t>(bundles_ * members_); }

  int members_, bundles_;
  std::vector<int> bundle_of_;
  std::size_t bundle_bytes_, message_bytes_;
  Segment layout_;
  std::size_t bundle_region_, first_rows_, sums_, messages_;
};

/// A round's buffers: bundles to other hosts, and the sums that come back from there.
enum Part : std::size_t { bundles_out, sums_in, n_parts };

/// Bundles to all other hosts together.
std::size_t outgoing_bytes(const ExchangeSetup& setup) {
  const BundleLayout layout(setup.dispatch);
  std::size_t bytes = layout.row_stride() * setup.max_rows_to(setup.hosts.hosts() - 1);
  for (int host = 0; host < setup.hosts.hosts(); ++host)
    if (host != setup.host()) bytes += layout.most_routing_bytes(setup.config.max_tokens, setup.hosts.n_members(host));
  return bytes;
}

class Hierarchical final : public ExchangeAlgorithm {
 public:
  Hierarchical(const ExchangeSetup& setup, const Communicator& comm)
      : setup_(setup),
        segment_(setup, setup.host()),
        memory_(setup, comm, segment_.layout().bytes(), segment_.layout().flags()),
        buffers_(plan_hierarchical(setup)),
        messages_(setup, comm),
        waiting_(setup, comm),
        streams_(setup.hosts.hosts()),
        targets_(setup.n_ranks) {
    for (int source = 0; source < setup.n_ranks; ++source)
      if (!setup.is_local(source) && setup.hosts.gateway(source, setup.host()) == setup.rank) served_.push_back(source);
    sets_.reserve(n_round_sets);
    for (int i = 0; i < n_round_sets; ++i) sets_.emplace_back(setup, served_.size());
  }

  void begin_dispatch(Round& round, const TokensToSend& tokens) override {
    Set& set = sets_[round.set];
    for (std::size_t i = 0; i < served_.size(); ++i)
      messages_.receive(own(segment_.bundle(round.set, bundle_at(i))), segment_.bundle_bytes(), served_[i],
                        message_tag(round.set, Phase::dispatch), set.bundle_receives[i]);
    // Rows to other hosts are packed; how many rows there are is known only when they are written.
    std::byte* at = buffers_.of_round(round.set, bundles_out);
    for_other_hosts([&](int host) {
      messages_.finish_send(set.bundle_sends[host], round, "earlier dispatch", setup_.hosts.gateway(setup_.rank, host));
    });
    for_other_hosts([&](int host) {
      set.bundles[host] = at;
      begin_bundle(setup_, round.plan, host, at, streams_[host], targets_);
      at = streams_[host].rows + setup_.dispatch.row_stride() * count_rows(round.plan, host);
    });
    begin_bundle(setup_, round.plan, setup_.host(), own(segment_.bundle(round.set, 0)), streams_[setup_.host()],
                 targets_);
    write_rows(setup_, round.plan, tokens, targets_, Stores::ordinary);
    memory_.flag(setup_.rank, segment_.bundle_flag(round.set, 0)).raise(round.number);
    for_other_hosts([&](int host) {
      messages_.send(
          set.bundles[host], static_cast<std::size_t>(bundle_end(setup_, streams_[host]) - set.bundles[host]),
          setup_.hosts.gateway(setup_.rank, host), message_tag(round.set, Phase::dispatch), set.bundle_sends[host]);
    });
  }

  void end_dispatch(Round& round) override {
    Set& set = sets_[round.set];
    std::fill(set.open.begin(), set.open.end(), true);
    forward(
        set, [&](std::size_t i) { return announce_bundle(round, i); },
        [&](int source) { return take_bundle(round, source); }, [&](std::size_t i) { return served_[i]; },
        [](int source) { return source; },
        [&](std::size_t i) { return missing_message(round, name_of(Phase::dispatch), served_[i]); },
        [&](int source) {
          return missing_message(round, name_of(Phase::dispatch), source) + through(gateway_of(source), source);
        });
  }

  void begin_combine(Round& round) override {
    Set& set = sets_[round.set];
    std::byte* at = buffers_.of_round(round.set, sums_in);
    for_other_hosts([&](int host) {
      std::size_t bytes = 0;
      for (const int rank : setup_.hosts.members(host)) {
        round.sums_from[rank] = at + bytes;
        bytes += setup_.combine.bytes(round.plan.rows_to(rank));
      }
      messages_.receive(at, bytes, setup_.hosts.gateway(setup_.rank, host), message_tag(round.set, Phase::combine),
                        set.sum_receives[host]);
      at += bytes;
    });
    for_other_hosts([&](int host) {
      for (const int source : setup_.hosts.members(host)) add_to_message(round, source);
    });
    stage_for_own_host(round);
  }

  void end_combine(Round& round) override {
    Set& set = sets_[round.set];
    // Ranks of the own host stand for themselves, those of another for the one message from there.
    for (int rank = 0; rank < setup_.n_ranks; ++rank)
      set.open[rank] = setup_.is_local(rank) || setup_.hosts.member_of(rank) == 0;
    const auto sender = [&](int rank) {
      return setup_.is_local(rank) ? rank : setup_.hosts.gateway(setup_.rank, setup_.hosts.host_of(rank));
    };
    forward(
        set, [&](std::size_t i) { return send_sums(round, i); }, [&](int rank) { return take_sums(round, rank); },
        [&](std::size_t i) { return silent_member(round, i); }, sender,
        [&](std::size_t i) {
          return missing_message(round, name_of(Phase::combine), silent_member(round, i)) + " for rank " +
                 std::to_string(served_[i]);
        },
        [&](int rank) { return missing_message(round, name_of(Phase::combine), sender(rank)); });
    if (setup_.config.combine_payload == Payload::f32) round.keep_own_sums();
  }

  std::size_t allocated_bytes() const override { return memory_.allocated_bytes() + buffers_.allocated_bytes(); }

 private:
  struct Set {
    Set(const ExchangeSetup& setup, std::size_t n_served)
        : bundles(setup.hosts.hosts()),
          bundle_sends(setup.hosts.hosts()),
          sum_receives(setup.hosts.hosts()),
          bundle_receives(n_served),
          sum_sends(n_served),
          to_forward(n_served),
          open(setup.n_ranks) {}
    std::vector<std::byte*> bundles;                       // [hosts], where each begins
    std::vector<OwnedRequest> bundle_sends, sum_receives;  // [hosts]
    std::vector<OwnedRequest> bundle_receives, sum_sends;  // [served]
    std::vector<char> to_forward;                          // [served], in the call at hand
    std::vector<char> open;                                // [ranks] not yet taken in, in the call at hand
  };

  std::byte* own(std::size_t offset) const { return memory_.own() + offset; }
  /// The member of this rank's host where what comes from `source` lies.
  int gateway_of(int source) const { return setup_.hosts.gateway(source, setup_.host()); }
  int bundle_at(std::size_t served) const { return segment_.bundle_of(served_[served]); }

  template <class Visit>
  void for_other_hosts(Visit&& visit) const {
    for_others(setup_.host(), setup_.hosts.hosts(), visit);
  }

  /// Tokens that any member of `host` gets.
  std::size_t count_rows(const SendPlan& plan, int host) const {
    std::size_t n = 0;
    for (int token = 0; token < plan.n_tokens(); ++token)
      for (const Send send : plan.sends_of(token))
        if (setup_.hosts.host_of(send.rank) == host) {
          ++n;
          break;
        }
    return n;
  }

  /// Forwards and takes in, in whatever order things come, until all is done. try_forward(i) and try_take(rank) say
  /// whether it is done; the peers are those for whom one waits, and the texts what did not come.
  template <class TryForward, class TryTake, class ForwardPeer, class TakePeer, class Unforwarded, class Untaken>
  void forward(Set& set, TryForward&& try_forward, TryTake&& try_take, ForwardPeer&& forward_peer, TakePeer&& take_peer,
               Unforwarded&& unforwarded, Untaken&& untaken) {
    std::fill(set.to_forward.begin(), set.to_forward.end(), true);
    std::size_t served = 0;  // everything before is done
    int open = 0;
    const auto work = [&] {
      for (std::size_t i = served; i < served_.size(); ++i)
        if (set.to_forward[i]) set.to_forward[i] = !try_forward(i);
      for (int rank = open; rank < setup_.n_ranks; ++rank)
        if (set.open[rank]) set.open[rank] = !try_take(rank);
      while (served < served_.size() && !set.to_forward[served]) ++served;
      while (open < setup_.n_ranks && !set.open[open]) ++open;
    };
    work();
    for (std::size_t first = served; first < served_.size(); first = served)
      waiting_.until(
          forward_peer(first),
          [&] {
            work();
            return served > first;
          },
          [&] { return unforwarded(first); });
    for (int first = open; first < setup_.n_ranks; first = open)
      waiting_.until(
          take_peer(first),
          [&] {
            work();
            return open > first;
          },
          [&] { return untaken(first); });
  }

  bool announce_bundle(Round& round, std::size_t i) {
    Set& set = sets_[round.set];
    if (!messages_.test(set.sum_sends[i]) || !messages_.test(set.bundle_receives[i])) return false;
    memory_.flag(setup_.rank, segment_.bundle_flag(round.set, bundle_at(i))).raise(round.number);
    return true;
  }

  bool take_bundle(Round& round, int source) {
    const int gateway = gateway_of(source), bundle = segment_.bundle_of(source);
    if (memory_.flag(gateway, segment_.bundle_flag(round.set, bundle)).rows_of(round.number) < 0) return false;
    read_bundle(round, source, memory_.of(gateway) + segment_.bundle(round.set, bundle));
    return true;
  }

  /// This rank's part of the message with the host's sums for `source`.
  void add_to_message(Round& round, int source) {
    const int gateway = gateway_of(source), bundle = segment_.bundle_of(source);
    const auto counts = bundle_counts(memory_.of(gateway) + segment_.bundle(round.set, bundle), setup_.n_local());
    const int self = setup_.hosts.member_of(setup_.rank);
    int before = 0;
    for (int member = 0; member < self; ++member) before += counts[member];
    write_sums(round, source,
               memory_.of(gateway) + segment_.message(round.set, bundle) + setup_.combine.row_offset(before),
               Stores::ordinary);
    memory_.flag(gateway, segment_.sum_flag(round.set, bundle, self)).raise(round.number);
  }

  void stage_for_own_host(Round& round) {
    auto* first_rows = reinterpret_cast<std::int32_t*>(own(segment_.first_rows(round.set)));
    std::int32_t row = 0;
    for (const int rank : setup_.hosts.members(setup_.host())) {
      *first_rows++ = row;
      if (rank != setup_.rank || setup_.config.combine_payload != Payload::f32)
        write_sums(round, rank, own(segment_.sums(round.set)) + setup_.combine.row_offset(row), Stores::ordinary);
      row += round.rows_from[rank];
    }
    memory_.flag(setup_.rank, segment_.sum_flag(round.set, 0, 0)).raise(round.number);
  }

  bool send_sums(Round& round, std::size_t i) {
    if (silent_member(round, i) >= 0) return false;
    const int bundle = bundle_at(i);
    int rows = 0;
    for (const int count : bundle_counts(own(segment_.bundle(round.set, bundle)), setup_.n_local())) rows += count;
    messages_.send(own(segment_.message(round.set, bundle)), setup_.combine.bytes(rows), served_[i],
                   message_tag(round.set, Phase::combine), sets_[round.set].sum_sends[i]);
    return true;
  }

  /// A rank whose part of the message to a served source is not there; -1 when all are.
  int silent_member(const Round& round, std::size_t i) const {
    for (int member = 0; member < setup_.n_local(); ++member)
      if (memory_.flag(setup_.rank, segment_.sum_flag(round.set, bundle_at(i), member)).rows_of(round.number) < 0)
        return setup_.hosts.members(setup_.host())[member];
    return -1;
  }

  bool take_sums(Round& round, int rank) {
    if (!setup_.is_local(rank)) return messages_.test(sets_[round.set].sum_receives[setup_.hosts.host_of(rank)]);
    if (memory_.flag(rank, segment_.sum_flag(round.set, 0, 0)).rows_of(round.number) < 0) return false;
    std::int32_t first_row = 0;
    std::memcpy(&first_row,
                memory_.of(rank) + segment_.first_rows(round.set) +
                    sizeof first_row * static_cast<std::size_t>(setup_.hosts.member_of(setup_.rank)),
                sizeof first_row);
    round.sums_from[rank] = memory_.of(rank) + segment_.sums(round.set) + setup_.combine.row_offset(first_row);
    return true;
  }

  static std::string through(int gateway, int source) {
    return gateway == source ? std::string() : " (through rank " + std::to_string(gateway) + ")";
  }

  const ExchangeSetup& setup_;
  HostSegment segment_;
  HostMemory memory_;
  PlannedBuffers buffers_;
  Messages messages_;
  ProgressingWait waiting_;
  std::vector<int> served_;         // sources of which this rank is the gateway, ascending
  std::vector<RowStream> streams_;  // [hosts]
  std::vector<RowTarget> targets_;  // [ranks]
  std::vector<Set> sets_;
};

}  // namespace

BufferPlan plan_hierarchical(const ExchangeSetup& setup) {
  BufferPlan plan;
  plan.segment = HostSegment(setup, setup.host()).layout().bytes() + segment_overhead_bytes;
  plan.of_round.resize(n_parts);
  plan.of_round[bundles_out] = outgoing_bytes(setup);
  plan.of_round[sums_in] = setup.combine.row_stride() * setup.max_rows_to(setup.n_remote());
  return plan;
}

std::unique_ptr<ExchangeAlgorithm> make_hierarchical(const ExchangeSetup& setup, const Communicator& comm) {
  return std::make_unique<Hierarchical>(setup, comm);
}

}  // namespace supernode::collectives

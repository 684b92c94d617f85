#pragma once
// What-if over whole deployments: how many prefill and decode instances, of what size and batch, serve a workload best
// within its objectives.

#include <string>
#include <vector>

#include "runtime/emulation/decode.hpp"
#include "runtime/emulation/prefill.hpp"

namespace supernode::emulation {

struct Workload {
  double prompt_tokens = 4096;
  double output_tokens = 2048;
  double reuse = 0;         ///< share of a prompt found in the pool, [0, 1)
  double acceptance = 0.7;  ///< of the speculative token
  ExpertLoad load;
};

/// What may be switched off, one by one.
struct Optimisations {
  bool early_quantisation = true;
  bool direct_writes = true;
  bool microbatches = true;
  bool mtp = true;
  bool pool = true;         ///< reuse from pooled memory over the fabric
  bool rebalancing = true;  ///< redundant copies of hot experts
};

struct Objectives {
  int npus = 256;
  double tpot_ms = 50;
  double ttft_ms = 10000;
  int cache_nodes = 0;  ///< nodes that lend DRAM to the pool; 0: all nodes in use
};

/// What a search may not choose: sizes given from outside. 0 (copies: below 0) leaves one free.
struct GivenSizes {
  int decode_npus = 0, prefill_npus = 0;  ///< of one instance; its dies are its expert parallelism
  int decode_instances = 0, prefill_instances = 0;
  int decode_copies = -1, prefill_copies = -1;  ///< redundant experts of an instance
  double batch_per_npu = 0;                     ///< requests of decode; then TPOT is a result, not an objective
  double prefill_tokens_per_npu = 0;            ///< of a prefill batch; then TTFT is a result, not an objective
};

/// A deployment and what the model says of it.
struct Deployment {
  int prefill_instances = 0, decode_instances = 0;
  PrefillSetup prefill;
  DecodeSetup decode;

  PrefillResult prefill_result;
  DecodeResult decode_result;
  ModelTime ttft;  ///< batch and hand-over, without queueing
  double prefill_requests_per_s = 0, decode_requests_per_s = 0, pool_requests_per_s = 0;
  double requests_per_s = 0;               ///< the least of the three
  double output_tokens_per_s_per_npu = 0;  ///< over all NPUs in use, prefill ones too
  int npus = 0;
  std::string limit;  ///< "prefill", "decode" or "pool", and what limits that stage

  int prefill_npus(const Machine& machine) const { return prefill.layout.dies / machine.dies_per_npu; }
  int decode_npus(const Machine& machine) const { return decode.layout.dies / machine.dies_per_npu; }
};

/// Fills in the results. @throws std::invalid_argument for layouts that do not fit.
void evaluate(const Machine& machine, const ModelShape& model, const Workload& workload, const Objectives& objectives,
              Deployment& deployment);

/// Largest whole number of requests a die that keeps TPOT and fits the memory; 0 when not even one does.
int largest_batch(const Machine& machine, const ModelShape& model, DecodeSetup setup, double tpot_ms);

/// The published deployment, 6 prefill instances of 16 NPUs and one decode instance of 160, at the largest batch that
/// the objective allows.
Deployment published_deployment(const Machine& machine, const ModelShape& model, const Workload& workload,
                                const Objectives& objectives, const Optimisations& use = {});

/// The best deployments, at most `count`, best first; one for each pair of instance sizes. Empty when nothing meets the
/// objectives with the given sizes.
std::vector<Deployment> search(const Machine& machine, const ModelShape& model, const Workload& workload,
                               const Objectives& objectives, const Optimisations& use, std::size_t count,
                               const GivenSizes& given = {});

struct Contribution {
  std::string name;
  double tpot_ms = 0, ttft_ms = 0;
  double loss_pct = 0;  ///< of output tokens per s and NPU when it is switched off, at the same sizes, batch re-chosen
};
/// Switches each optimisation off alone. A fixed batch stays as it is.
std::vector<Contribution> contributions(const Machine& machine, const ModelShape& model, const Workload& workload,
                                        const Objectives& objectives, const Deployment& deployment,
                                        const GivenSizes& given = {});

}  // namespace supernode::emulation

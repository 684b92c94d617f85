#include "launch/commands.hpp"

namespace supernode::launch {

std::span<const CommandEntry> commands() {
  static constexpr CommandEntry table[] = {
      {"serve", "serve", "replay a trace of requests: prefill, decode and cache ranks under one coordinator", true,
       make_serve},
      {"generate", "generate", "continue a prompt", true, make_generate},
      {"eval", "eval", "score a text: nats per token and perplexity", true, make_eval},
      {"bench exchange", "bench_exchange", "time token dispatch and combine by algorithm", true, make_bench_exchange},
      {"bench model", "bench_model", "prefill and decode of a model of given sizes, beside its matrix products alone",
       true, make_bench_model},
      {"bench pool", "bench_pool", "time the memory pool beside raw MPI and memcpy, or replay a trace's blocks", true,
       make_bench_pool},
      {"bench tune", "bench_tune",
       "measure the exchange algorithms here, and write the rules by which 'auto' takes one", true, make_bench_tune},
      {"import", "import", "a model folder as one HDF5 file, in f32, bf16 or int8", false, make_import},
      {"inspect", "inspect", "what a model holds, and the memory that each rank needs", false, make_inspect},
      {"place", "place", "where experts and their copies go, from how often each was chosen", false, make_place},
      {"plan", "plan", "what-if on a modelled machine, and the best deployment for objectives", false, make_plan},
      {"validate", "validate", "the modelled machine against the published tables", false, make_validate},
      {"topo", "topo", "the emulated machine rank by rank, and the hosts", true, make_topo},
      {"config", "config", "print the effective configuration as a file", false, make_config},
  };
  return table;
}

}  // namespace supernode::launch

#include "launch/commands.hpp"

namespace supernode::launch {

std::span<const CommandEntry> commands() {
  static constexpr CommandEntry table[] = {
      {"serve", "serve", "replay a trace of requests: prefill, decode and cache ranks under one coordinator",
       Launcher::needed, make_serve},
      {"generate", "generate", "continue a prompt", Launcher::needed, make_generate},
      {"eval", "eval", "score a text: nats per token and perplexity", Launcher::needed, make_eval},
      {"bench exchange", "bench_exchange", "time token dispatch and combine by algorithm", Launcher::needed,
       make_bench_exchange},
      {"bench model", "bench_model", "prefill and decode of a model of given sizes, beside its matrix products alone",
       Launcher::needed, make_bench_model},
      {"bench pool", "bench_pool", "time the memory pool beside raw MPI and memcpy, or replay a trace's blocks",
       Launcher::needed, make_bench_pool},
      {"bench tune", "bench_tune",
       "measure the exchange algorithms here, and write the rules by which 'auto' takes one", Launcher::needed,
       make_bench_tune},
      {"import", "import", "a model folder as one HDF5 file, in f32, bf16 or int8", Launcher::optional, make_import},
      {"inspect", "inspect", "what a model holds, and the memory that each rank needs", Launcher::optional,
       make_inspect},
      {"place", "place", "where experts and their copies go, from how often each was chosen", Launcher::optional,
       make_place},
      {"plan", "plan", "what-if on a modelled machine, and the best deployment for objectives", Launcher::optional,
       make_plan},
      {"replay", "replay", "price the recorded steps of a run again, on another machine", Launcher::optional,
       make_replay},
      {"validate", "validate", "the modelled machine against the published tables", Launcher::optional, make_validate},
      {"topo", "topo", "the emulated machine rank by rank, and the hosts", Launcher::needed, make_topo},
      {"config", "config", "print the effective configuration as a file", Launcher::optional, make_config},
  };
  return table;
}

}  // namespace supernode::launch

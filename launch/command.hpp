#pragma once
// What a command is. One file a command in this folder; commands.cpp holds the table.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/core/json.hpp"
#include "runtime/core/mpi/communicator.hpp"
#include "runtime/core/mpi/host_topology.hpp"
#include "runtime/core/options.hpp"
#include "runtime/core/result_file.hpp"

namespace supernode::launch {

/// Options of every command, section [run].
struct RunOptions {
  std::string config;  ///< configuration file
  std::string log_level = "warning";
  std::string format = "text";  ///< "text" or "json", on rank 0's stdout
  std::string output;           ///< HDF5 result file; empty: none
  bool overwrite = false;       ///< of result files that exist
  double deadline = 120;        ///< s, for every wait for a peer
  std::string bind = "auto";    ///< "auto" or "none"

  /// For every file that a command writes as a result.
  IfExists if_exists() const { return overwrite ? IfExists::replace : IfExists::refuse; }
};
void describe(OptionTable& table, RunOptions& options);

/// What a running command works with.
struct Context {
  const Communicator* world = nullptr;  ///< null for commands that need no MPI
  HostTopology host;
  RunOptions run;
  const OptionTable* options = nullptr;
  std::vector<std::string> command_line;  ///< the whole, as typed

  /// True on the rank that prints: rank 0, or the only process.
  bool is_root() const { return !world || world->rank() == 0; }
};

/// A command of the program. describe() runs for all commands (so that any known key of a configuration file is
/// accepted); run() for one of them.
class Command {
 public:
  virtual ~Command() = default;
  /// Adds the options of section() and of the modules this command uses.
  virtual void describe(OptionTable& table) = 0;
  /// All ranks of the world call it. Returns the exit code, equal on all ranks. Errors: throw; an error that only some
  /// ranks see is thrown through collectively(), or else the run is aborted.
  virtual int run(const Context& context) = 0;
};

/// Whether a command works with the ranks of mpirun or srun, or alone.
enum class Launcher { needed, optional };

/// A row of the command table.
struct CommandEntry {
  std::string_view name;     ///< "bench exchange"
  std::string_view section;  ///< "bench_exchange": its section in files and variables
  std::string_view summary;  ///< one line for --help
  Launcher launcher;
  std::unique_ptr<Command> (*make)();
};

/// The same figures twice: for machines and for people. Written side by side, so that neither is forgotten.
struct Written {
  Json json;
  std::string text;
};

/// Raw samples that go into --output beside the document.
struct Samples {
  std::string path;  ///< dataset, "samples/direct/8"
  std::vector<double> values;
  std::vector<std::size_t> shape;
  std::vector<std::string> columns = {};  ///< their names, in an attribute of the dataset; empty: none
};

/// Ends a command: prints `text` or the JSON document {"schema","version","args","env","results"} on the root's stdout
/// and writes --output. Collective over context.world where there is one.
/// @param command as in the table; @param results, @param text and @param left_out matter on the root only
/// @param left_out what the command should have measured but could not, [{"algorithm", "reason"}]: the key "left_out" of
/// the document. Null for commands that leave nothing out.
/// @throws AgreedError (EnvironmentError without a world) when stdout or the output file cannot be written.
void report(const Context& context, std::string_view command, const Json& results, const std::string& text,
            const std::vector<Samples>& samples = {}, const Json& left_out = {});

/// @throws EnvironmentError when stdout does not take what was printed: a full disk, a reader that has gone.
void flush_stdout();

}  // namespace supernode::launch

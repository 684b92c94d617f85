// supernode <command> [options]: finds the command, gathers its options from all sources, runs it, and turns errors
// into one line and an exit code that is the same on all ranks.

#include <algorithm>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstdio>
#include <exception>
#include <functional>
#include <span>
#include <thread>

#include <fmt/format.h>

#include "launch/command.hpp"
#include "launch/commands.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"
#include "runtime/core/log.hpp"
#include "runtime/core/mpi/agreement.hpp"
#include "runtime/core/mpi/deadline.hpp"
#include "runtime/core/mpi/launcher.hpp"
#include "runtime/core/mpi/mpi_call.hpp"
#include "runtime/core/mpi/provenance.hpp"
#include "runtime/core/mpi/session.hpp"

namespace supernode::launch {
namespace {

std::string usage() {
  std::string text =
      "supernode: an MPI runtime that emulates an LLM-serving supernode; each rank plays one NPU die.\n\n"
      "  supernode <command> [options]              commands marked * need no launcher\n"
      "  mpirun -n RANKS supernode <command> [options]\n\n";
  for (const CommandEntry& entry : commands())
    text += fmt::format("  {:<16}{} {}\n", entry.name, entry.launcher == Launcher::needed ? ' ' : '*', entry.summary);
  text += "\n  supernode <command> --help shows a command's options; supernode --version the version.\n";
  return text;
}

/// The command named by the first one or two arguments, which are removed.
const CommandEntry& find_command(std::vector<std::string>& arguments) {
  for (const std::size_t words : {std::size_t{2}, std::size_t{1}}) {
    if (arguments.size() < words) continue;
    const std::string name = words == 2 ? arguments[0] + " " + arguments[1] : arguments[0];
    for (const CommandEntry& entry : commands())
      if (entry.name == name) {
        arguments.erase(arguments.begin(), arguments.begin() + static_cast<std::ptrdiff_t>(words));
        return entry;
      }
  }
  std::string name = arguments[0], known;
  if (name == "bench" && arguments.size() > 1 && !arguments[1].starts_with("-")) name += " " + arguments[1];
  for (const CommandEntry& entry : commands()) known += fmt::format("{}{}", known.empty() ? "" : ", ", entry.name);
  throw UsageError(fmt::format("unknown command '{}'; known: {}", name, known));
}

/// Every option of the program. All commands describe theirs, so that a configuration file may hold keys of any.
struct Program {
  explicit Program(const CommandEntry& entry) : table(std::string(entry.section)) {
    launch::describe(table, run);
    for (const CommandEntry& other : commands()) {
      all.push_back(other.make());
      all.back()->describe(table);
      if (&other == &entry) command = all.back().get();
    }
  }

  RunOptions run;
  OptionTable table;
  std::vector<std::unique_ptr<Command>> all;
  Command* command = nullptr;
};

/// What one process sees; under MPI only rank 0's counts.
OptionSources gather_sources(const std::vector<std::string>& arguments) {
  OptionSources sources{arguments, option_environment(), find_config_argument(arguments), {}};
  if (!sources.file_name.empty()) sources.file_text = read_file(sources.file_name);
  return sources;
}

Json to_json(const OptionSources& s) {
  // Arguments and files are the user's bytes; they need not be UTF-8, so they travel as numbers.
  const auto bytes = [](const std::string& text) { return std::vector<unsigned char>(text.begin(), text.end()); };
  Json document{{"file_name", bytes(s.file_name)}, {"file_text", bytes(s.file_text)}};
  document["arguments"] = document["environment"] = Json::array();
  for (const std::string& argument : s.arguments) document["arguments"].push_back(bytes(argument));
  for (const auto& [name, value] : s.environment) document["environment"].push_back({bytes(name), bytes(value)});
  return document;
}

OptionSources sources_from_json(const Json& document) {
  const auto text = [](const Json& bytes) {
    const auto values = bytes.get<std::vector<unsigned char>>();
    return std::string(values.begin(), values.end());
  };
  OptionSources s;
  s.file_name = text(document["file_name"]);
  s.file_text = text(document["file_text"]);
  for (const Json& argument : document["arguments"]) s.arguments.push_back(text(argument));
  for (const Json& pair : document["environment"]) s.environment.emplace_back(text(pair[0]), text(pair[1]));
  return s;
}

int complain(const Error& error) {
  std::fprintf(stderr, "supernode: %s\n", error.what());
  return static_cast<int>(error.code());
}

std::vector<std::string> whole_command_line(const CommandEntry& entry, const std::vector<std::string>& arguments) {
  std::vector<std::string> line{"supernode", std::string(entry.name)};
  line.insert(line.end(), arguments.begin(), arguments.end());
  return line;
}

int run_alone(const CommandEntry& entry, const std::vector<std::string>& arguments) {
  Program program(entry);
  program.table.parse(gather_sources(arguments));
  configure_log(parse_log_level(program.run.log_level), -1, host_name());
  Context context;
  context.host = detect_host_topology();
  context.run = program.run;
  context.options = &program.table;
  context.command_line = whole_command_line(entry, arguments);
  if (!program.run.output.empty()) check_new_file(program.run.output, program.run.if_exists());
  return program.command->run(context);
}

int run_on_world(const CommandEntry& entry, const std::vector<std::string>& arguments, const Communicator& world) {
  Program program(entry);
  // Rank 0 decides what the options are; an error in its sources reaches all ranks as text.
  std::string packed;
  if (world.rank() == 0) {
    try {
      packed = "+" + to_json(gather_sources(arguments)).dump();
    } catch (const Error& error) {
      packed = std::to_string(static_cast<int>(error.code())) + error.what();
    }
  }
  packed = world.broadcast(std::move(packed));
  if (packed[0] != '+') throw AgreedError(static_cast<ExitCode>(packed[0] - '0'), packed.substr(1));
  program.table.parse(sources_from_json(Json::parse(packed.substr(1))));

  Context context;
  context.world = &world;
  context.run = program.run;
  context.options = &program.table;
  context.command_line = whole_command_line(entry, arguments);
  const Communicator host_ranks = world.split_by_host();
  context.host = bind_rank(host_ranks.rank(), host_ranks.size(), program.run.bind == "auto");
  configure_log(parse_log_level(program.run.log_level), world.rank(), context.host.host);
  if (!program.run.output.empty()) on_root(world, [&] { check_new_file(program.run.output, program.run.if_exists()); });
  return program.command->run(context);
}

/// Every rank comes here when its command ended, well or not. When all ranks failed in order they leave together with
/// the highest code and one message; when some do not come (they are stuck in a communication that the failed rank
/// left), the failed rank aborts the job.
int leave_together(const Communicator& farewell, int code, const std::string& message) {
  // The highest code, and the lowest rank that has a message.
  const int values[2] = {code, message.empty() ? -INT_MAX : -farewell.rank()};
  int agreed[2] = {0, 0};
  MPI_Request request = MPI_REQUEST_NULL;
  SUPERNODE_MPI(MPI_Iallreduce(values, agreed, 2, MPI_INT, MPI_MAX, farewell.get(), &request));
  const double patience = message.empty() ? 3600 : 3;
  try {
    wait_until([&] { return completed(request); }, patience, [] { return std::string("peers missing"); }, Idle::sleep);
  } catch (const TimeoutError& missing) {
    const std::string why = message.empty() ? missing.what() : message;
    // Messages of waits name their rank themselves.
    const std::string who = why.starts_with("rank ") ? "" : fmt::format("rank {}: ", farewell.rank());
    std::fprintf(stderr, "supernode: %s%s\n", who.c_str(), why.c_str());
    abort_job(code);
  }
  if (-agreed[1] == farewell.rank() && !message.empty()) std::fprintf(stderr, "supernode: %s\n", message.c_str());
  return agreed[0];
}

/// How a command ended on this process: the code, and the message of an error or "".
struct Ending {
  int code = static_cast<int>(ExitCode::environment);
  std::string message;
};

Ending end_of(const std::function<int()>& command) {
  Ending ending;
  try {
    ending.code = command();
  } catch (const Error& error) {
    ending = {static_cast<int>(error.code()), error.what()};
  } catch (const std::bad_alloc&) {
    ending.message = "out of memory";
  } catch (const std::exception& error) {
    ending.message = error.what();
  }
  std::fflush(stdout);
  return ending;
}

int run_under_mpi(const CommandEntry& entry, const std::vector<std::string>& arguments, int argc, char** argv) {
  if (const std::string why = srun_without_pmi(); !why.empty()) throw EnvironmentError(why);
  const Session session(argc, argv);
  const Communicator farewell = Communicator::world();
  const Communicator world = Communicator::world();
  const Ending ending = end_of([&] { return run_on_world(entry, arguments, world); });
  return leave_together(farewell, ending.code, ending.message);
}

/// A command that needs no launcher, under one: rank 0 works, and all ranks leave with its code. The others sleep until
/// then, without a deadline: the work may take hours, and when rank 0 dies the launcher ends the job.
int run_on_rank_0(const CommandEntry& entry, const std::vector<std::string>& arguments, int argc, char** argv) {
  const Session session(argc, argv);
  const Communicator world = Communicator::world();
  int code = 0;
  if (world.rank() == 0) {
    const Ending ending = end_of([&] { return run_alone(entry, arguments); });
    if (!ending.message.empty()) std::fprintf(stderr, "supernode: %s\n", ending.message.c_str());
    code = ending.code;
  }
  MPI_Request request = MPI_REQUEST_NULL;
  SUPERNODE_MPI(MPI_Ibcast(&code, 1, MPI_INT, 0, world.get(), &request));
  while (!completed(request)) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  return code;
}

int run_without_mpi(const CommandEntry& entry, const std::vector<std::string>& arguments, const LaunchIdentity& me,
                    int argc, char** argv) {
  if (me.size <= 1) return run_alone(entry, arguments);
  if (srun_without_pmi().empty()) return run_on_rank_0(entry, arguments, argc, argv);
  // The tasks of srun cannot talk to each other; srun itself takes the highest code of all.
  return me.rank == 0 ? run_alone(entry, arguments) : static_cast<int>(ExitCode::good);
}

int run(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  const LaunchIdentity me = started_by_launcher() ? launch_identity() : LaunchIdentity{};
  const bool speaks = me.rank == 0;
  const auto say = [&](const std::string& text) {
    if (speaks) {
      std::fputs(text.c_str(), stdout);
      flush_stdout();
    }
    return static_cast<int>(ExitCode::good);
  };
  const auto is_help = [](const std::string& argument) { return argument == "--help" || argument == "-h"; };
  try {
    if (arguments.empty() || is_help(arguments[0]) || arguments[0] == "help") return say(usage());
    if (arguments[0] == "--version") return say(fmt::format("supernode {}\n", version()));
    const CommandEntry& entry = find_command(arguments);
    if (std::any_of(arguments.begin(), arguments.end(), is_help)) {
      const Program program(entry);
      return say(fmt::format("supernode {}: {}\n{}", entry.name, entry.summary, program.table.help()));
    }
    if (std::find(arguments.begin(), arguments.end(), "--version") != arguments.end())
      return say(fmt::format("supernode {}\n", version()));
    return entry.launcher == Launcher::needed ? run_under_mpi(entry, arguments, argc, argv)
                                              : run_without_mpi(entry, arguments, me, argc, argv);
  } catch (const Error& error) {
    return speaks ? complain(error) : static_cast<int>(error.code());
  }
}

}  // namespace
}  // namespace supernode::launch

int main(int argc, char** argv) {
  // A file that grows beyond the user's limit is a failed write with a reason, not the end of the process.
  std::signal(SIGXFSZ, SIG_IGN);
  try {
    return supernode::launch::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "supernode: %s\n", error.what());
    return static_cast<int>(supernode::ExitCode::environment);
  }
}

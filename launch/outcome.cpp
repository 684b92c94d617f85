#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>

#include <fmt/format.h>

#include "launch/command.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/mpi/agreement.hpp"
#include "runtime/core/mpi/provenance.hpp"

namespace supernode::launch {

void describe(OptionTable& table, RunOptions& options) {
  table.add("run", "config", options.config, "configuration file (INI)");
  table.add("run", "format", options.format, "form of the result on stdout").choices({"text", "json"});
  table.add("run", "output", options.output, "also write results, raw samples and provenance to this new HDF5 file");
  table.add("run", "overwrite", options.overwrite, "replace files of results that exist, instead of refusing to");
  table.add("run", "log_level", options.log_level, "least level of log lines on stderr")
      .choices({"debug", "info", "warning", "error", "off"});
  table.add("run", "deadline", options.deadline, "longest wait for a peer, s").range(0.1, 1e6);
  table.add("run", "bind", options.bind, "bind ranks to cores where the launcher has not").choices({"auto", "none"});
}

namespace {

std::string schema_of(std::string_view command) {
  std::string name(command);
  for (char& c : name)
    if (c == ' ') c = '.';
  return "supernode." + name + "/1";
}

/// Numbers and booleans as such, anything else as text.
Json typed(const std::string& value) {
  const std::optional<Json> parsed = parse_if_json(value);
  return parsed && (parsed->is_number() || parsed->is_boolean()) ? *parsed : Json(value);
}

void write_output(const Context& context, const Json& document, const std::vector<Samples>& samples) {
  ResultFile file(context.run.output, context.run.if_exists());
  for (const Samples& set : samples) {
    file.dataset(set.path, set.values, set.shape);
    if (set.columns.empty()) continue;
    std::string names;
    for (const std::string& name : set.columns) names += (names.empty() ? "" : ",") + name;
    file.attribute(set.path, "columns", names);
  }
  file.attribute("/", "schema", document["schema"].get<std::string>());
  file.attribute("/", "document", to_text(document));
  file.attribute("/", "provenance", to_text(document["env"]));
  file.attribute("/", "configuration", context.options->as_ini());
  file.close();
}

}  // namespace

void flush_stdout() {
  if (std::fflush(stdout) != 0 || std::ferror(stdout))
    throw EnvironmentError(fmt::format("cannot write to stdout: {}", std::strerror(errno)));
}

void report(const Context& context, std::string_view command, const Json& results, const std::string& text,
            const std::vector<Samples>& samples, const Json& left_out) {
  const bool wants_document = context.run.format == "json" || !context.run.output.empty();
  Json env;
  if (wants_document)
    env = context.world ? run_provenance(*context.world, context.host, context.command_line) : build_provenance();
  const auto finish = [&] {
    Json document;
    if (wants_document) {
      document["schema"] = schema_of(command);
      document["version"] = version();
      document["args"] = Json::object();
      for (const Option* option : context.options->own_options())
        document["args"][option->key()] = typed(option->value());
      document["env"] = env;
      document["results"] = results;
      if (!left_out.is_null()) document["left_out"] = left_out;
    }
    // When one of stdout and the file fails, the other still gets what was measured.
    std::exception_ptr unprinted;
    try {
      if (context.run.format == "json") {
        std::puts(to_text(document, 2).c_str());
      } else {
        std::fputs(text.c_str(), stdout);
      }
      flush_stdout();
    } catch (const EnvironmentError&) {
      unprinted = std::current_exception();
    }
    if (!context.run.output.empty()) write_output(context, document, samples);
    if (unprinted) std::rethrow_exception(unprinted);
  };
  if (context.world) {
    on_root(*context.world, finish);
  } else {
    finish();
  }
}

}  // namespace supernode::launch

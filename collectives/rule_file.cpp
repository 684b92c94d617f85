#include "collectives/rule_file.hpp"

#include <filesystem>

#include "collectives/algorithms.hpp"
#include "runtime/core/config_path.hpp"
#include "runtime/core/files.hpp"
#include "runtime/core/mpi/agreement.hpp"

namespace supernode::collectives {

void describe(OptionTable& table, SelectionOptions& options) {
  table.add("exchange", "rules", options.rules,
            "file of rules by which 'auto' takes an exchange algorithm (bench tune writes one), or 'default'");
}

SelectionRules known_rules(std::string_view text, const std::string& source) {
  std::vector<std::string_view> names;
  for (const AlgorithmName& algorithm : algorithms()) names.push_back(algorithm.name);
  return parse_rules(text, source, names);
}

std::shared_ptr<const SelectionRules> default_rules() {
  static const auto rules = std::make_shared<const SelectionRules>(known_rules(built_in_rules(), "built-in rules"));
  return rules;
}

std::shared_ptr<const SelectionRules> load_rules(const Communicator& comm, const SelectionOptions& options) {
  std::string source, text;
  on_root(comm, [&] {
    source = options.rules;
    if (source == "default") {
      const auto shipped = std::filesystem::path(config_directory()) / "exchange-rules" / "default.rules";
      std::error_code ignored;
      if (!std::filesystem::exists(shipped, ignored)) {
        source.clear();
        return;
      }
      source = shipped.string();
    }
    text = read_file(source);
    known_rules(text, source);
  });
  source = comm.broadcast(std::move(source));
  if (source.empty()) return default_rules();
  return std::make_shared<const SelectionRules>(known_rules(comm.broadcast(std::move(text)), source));
}

}  // namespace supernode::collectives

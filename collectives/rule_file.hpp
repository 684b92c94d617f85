#pragma once
// Where the rules of a run come from: the option exchange.rules.

#include <memory>
#include <string>

#include "collectives/selection/rules.hpp"
#include "collectives/selection/selection_options.hpp"
#include "runtime/core/mpi/communicator.hpp"

namespace supernode::collectives {

/// Rules from `text`, with the algorithms of this program. @throws UsageError as parse_rules().
SelectionRules known_rules(std::string_view text, const std::string& source);

/// The rules that hold without a file. Built once.
std::shared_ptr<const SelectionRules> default_rules();

/// Reads the rules that `options` names on rank 0 and hands them to all. "default" is the file exchange-rules/
/// default.rules in the configuration directory, or what the program was built with where there is none. Collective.
/// @throws AgreedError (usage) "<file>:<line>: ..." on every rank.
std::shared_ptr<const SelectionRules> load_rules(const Communicator& comm, const SelectionOptions& options);

}  // namespace supernode::collectives

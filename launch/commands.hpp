#pragma once
// The table of commands, and the one function that each command's file exports.

#include <memory>
#include <span>

#include "launch/command.hpp"

namespace supernode::launch {

std::unique_ptr<Command> make_bench_exchange();
std::unique_ptr<Command> make_bench_model();
std::unique_ptr<Command> make_bench_pool();
std::unique_ptr<Command> make_bench_tune();
std::unique_ptr<Command> make_config();
std::unique_ptr<Command> make_eval();
std::unique_ptr<Command> make_generate();
std::unique_ptr<Command> make_import();
std::unique_ptr<Command> make_inspect();
std::unique_ptr<Command> make_place();
std::unique_ptr<Command> make_plan();
std::unique_ptr<Command> make_replay();
std::unique_ptr<Command> make_serve();
std::unique_ptr<Command> make_topo();
std::unique_ptr<Command> make_validate();

/// In the order of --help.
std::span<const CommandEntry> commands();

}  // namespace supernode::launch

// supernode config: the effective configuration.
#include <cstdio>

#include "launch/commands.hpp"
#include "runtime/core/error.hpp"

namespace supernode::launch {
namespace {

class ConfigCommand : public Command {
 public:
  void describe(OptionTable&) override {}
  int run(const Context& context) override {
    const std::string ini = context.options->as_ini();
    report(context, "config", Json{{"ini", ini}}, ini);
    return static_cast<int>(ExitCode::good);
  }
};

}  // namespace

std::unique_ptr<Command> make_config() { return std::make_unique<ConfigCommand>(); }

}  // namespace supernode::launch

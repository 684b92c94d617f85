// supernode import: a model folder as one HDF5 file.
#include <fmt/format.h>

#include "launch/commands.hpp"
#include "moe/hdf5_import.hpp"
#include "runtime/core/config_path.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/log.hpp"

namespace supernode::launch {
namespace {

class ImportCommand : public Command {
 public:
  void describe(OptionTable& table) override {
    table.add("import", "model", model_, "model folder: config.json and safetensors; --output names the new file");
    table.add("import", "dtype", dtype_, "type of the matrices").choices({"f32", "bf16", "int8"});
    table.add("import", "smooth", smooth_, "for int8, search factors that make outliers of activations smaller");
  }

  int run(const Context& context) override {
    if (model_.empty()) throw UsageError("--model: a model folder is needed");
    const std::string& output = context.run.output;
    if (output.empty()) throw UsageError("--output: a new HDF5 file is needed");
    moe::Checkpoint checkpoint(find_model(model_));
    if (!checkpoint.unread_note().empty()) log(LogLevel::warning, "{}", checkpoint.unread_note());
    const moe::ComputeType type = moe::parse_compute_type(dtype_);
    const auto smoothing =
        smooth_ && type == moe::ComputeType::int8 ? moe::OutlierSmoothing::search : moe::OutlierSmoothing::none;
    const moe::ImportSummary summary =
        moe::import_checkpoint(checkpoint, output, type, smoothing, context.run.if_exists());
    const Json results{{"output", output},
                       {"dtype", dtype_},
                       {"tensors", summary.tensors},
                       {"bytes_read", summary.bytes_read},
                       {"bytes_written", summary.bytes_written},
                       {"int8_error", summary.int8_error},
                       {"int8_error_unsearched", summary.int8_error_unsearched},
                       {"smoothed_groups", summary.smoothed_groups},
                       {"groups", summary.groups},
                       {"smoothing_error_ratio", summary.smoothing_error_ratio}};
    std::string text = fmt::format("{}: {} tensors, {} bytes read, {} written\n", output, summary.tensors,
                                   summary.bytes_read, summary.bytes_written);
    if (summary.int8_error > 0)
      text += fmt::format("relative error of int8 matrices {:.3e}; without searched scales {:.3e}\n",
                          summary.int8_error, summary.int8_error_unsearched);
    if (summary.groups > 0)
      text += fmt::format("{} of {} groups smoothed; estimated squared error of the products {:.3f} of that without\n",
                          summary.smoothed_groups, summary.groups, summary.smoothing_error_ratio);
    // Here --output is the checkpoint, so no file of results.
    Context shown = context;
    shown.run.output.clear();
    report(shown, "import", results, text);
    return static_cast<int>(ExitCode::good);
  }

 private:
  std::string model_, dtype_ = "bf16";
  bool smooth_ = true;
};

}  // namespace

std::unique_ptr<Command> make_import() { return std::make_unique<ImportCommand>(); }

}  // namespace supernode::launch

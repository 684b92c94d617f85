#pragma once
// The record of a run as an HDF5 file: what each die did in each step, so that the steps can be priced on another
// machine. Pure.
//
//   /                  attributes: format, format_version, program_version, machine_name, machine (a machine file),
//                      model (JSON)
//   /decode/0          attribute setup (JSON: how the instance works, the dies of the machine that it plays)
//   /decode/0/starts   [steps][dies] ns on the modelled clock
//   /decode/0/ends     the same
//   /decode/0/record_bytes   [steps][dies] length of each record
//   /decode/0/records  the records (step_record), by step and die, one behind the other
//   /prefill/0 ...     the same
//
// What an instance wrote is in the order of its steps. So the data of two equal runs are equal, whatever the hosts do.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "runtime/core/result_file.hpp"
#include "runtime/core/result_reader.hpp"
#include "runtime/serving/record/run_head.hpp"

namespace supernode::serving {

/// Keeps nothing in memory that can be written. Every method throws EnvironmentError when the disk refuses.
class RecordWriter : public StepLog {
 public:
  /// @throws as ResultFile
  RecordWriter(const std::string& path, IfExists if_exists, const RunHead& head);

  /// @pre the report has the records of all dies
  void on_step(const InstanceId& instance, const StepReport& report) override;
  /// Gives the file its name. The last call; without it nothing is left.
  void close() { file_.close(); }

 private:
  ResultFile file_;
};

/// A step as it was recorded.
struct RecordedStep {
  std::vector<RunTime> starts, ends;            ///< [dies]
  std::vector<std::vector<std::byte>> records;  ///< [dies] encode_step()
};

/// Reads step by step. Every method throws UsageError naming the file and what is wrong in it.
class RecordReader {
 public:
  /// @throws UsageError when it is no record, or one of another version.
  explicit RecordReader(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const RunHead& head() const { return head_; }
  std::int64_t steps(const InstanceId& instance) const { return places_.at(instance).steps; }
  /// The next step of the instance. @pre fewer than steps() have been read
  RecordedStep next(const InstanceId& instance);

 private:
  struct Place {
    std::int64_t steps = 0, step = 0;
    std::size_t dies = 0, records_bytes = 0, offset = 0;
  };
  void read_instances(emulation::Stage stage);

  ResultReader file_;
  RunHead head_;
  std::map<InstanceId, Place> places_;
};

}  // namespace supernode::serving

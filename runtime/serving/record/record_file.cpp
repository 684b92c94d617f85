#include "runtime/serving/record/record_file.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>

#include "runtime/core/error.hpp"
#include "runtime/core/text.hpp"

namespace supernode::serving {
namespace {

const std::string kFormat = "supernode.record";
const std::string kVersion = "1";

std::string group_of(const InstanceId& id) { return fmt::format("/{}/{}", name_of(id.stage), id.index); }

}  // namespace

RecordWriter::RecordWriter(const std::string& path, IfExists if_exists, const RunHead& head) : file_(path, if_exists) {
  file_.attribute("/", "format", kFormat);
  file_.attribute("/", "format_version", kVersion);
  file_.attribute("/", "program_version", head.program);
  file_.attribute("/", "machine_name", head.machine.name);
  file_.attribute("/", "machine", to_text(head.machine));
  file_.attribute("/", "model", to_text(to_json(head.model)));
  for (const RunHead::Instance& instance : head.instances) {
    const std::string group = group_of(instance.id);
    for (const char* times : {"starts", "ends", "record_bytes"})
      file_.create_growing(group + "/" + times, ValueType::int64, instance.dies.size());
    file_.create_growing(group + "/records", ValueType::byte);
    file_.attribute(group, "setup", to_text(to_json(instance.setup, instance.dies)));
  }
}

void RecordWriter::on_step(const InstanceId& instance, const StepReport& report) {
  const std::string group = group_of(instance);
  std::vector<std::int64_t> starts, ends, sizes;
  for (const StepReport::Die& die : report.dies) {
    expect(!die.record.empty(), "a step to be recorded has the records of its dies");
    starts.push_back(die.start.time_since_epoch().count());
    ends.push_back(die.end.time_since_epoch().count());
    sizes.push_back(static_cast<std::int64_t>(die.record.size()));
    file_.append(group + "/records", die.record);
  }
  file_.append(group + "/starts", starts);
  file_.append(group + "/ends", ends);
  file_.append(group + "/record_bytes", sizes);
}

RecordReader::RecordReader(const std::string& path) : file_(path) {
  if (const std::string format = file_.attribute("/", "format"); format != kFormat)
    throw UsageError(fmt::format("{}: no record of a run: format '{}' where '{}' belongs", path, format, kFormat));
  if (const std::string version = file_.attribute("/", "format_version"); version != kVersion)
    throw UsageError(
        fmt::format("{}: a record of version '{}', this program reads version {}", path, version, kVersion));
  head_.program = file_.attribute("/", "program_version");
  const std::string in_file = path + ": attribute ";
  head_.machine = emulation::parse_machine(file_.attribute("/", "machine"), in_file + "'machine'");
  const std::string model = in_file + "'model'";
  head_.model = model_from_json(parse_json(file_.attribute("/", "model"), model), model);
  for (const emulation::Stage stage : {emulation::Stage::prefill, emulation::Stage::decode}) read_instances(stage);
  if (head_.instances.empty()) throw UsageError(fmt::format("{}: a record without instances", path));
}

void RecordReader::read_instances(emulation::Stage stage) {
  std::vector<int> indices;
  for (const std::string& name : file_.names_in(fmt::format("/{}", name_of(stage)))) {
    const std::optional<int> index = parse_number<int>(name);
    if (!index || *index < 0) throw UsageError(fmt::format("{}: no instance '{} {}'", path(), name_of(stage), name));
    indices.push_back(*index);
  }
  std::sort(indices.begin(), indices.end());
  for (const int index : indices) {
    RunHead::Instance instance;
    instance.id = {stage, index};
    const std::string group = group_of(instance.id), setup = fmt::format("{}: setup of {}", path(), group);
    instance_from_json(parse_json(file_.attribute(group, "setup"), setup), setup, instance);
    Place place;
    place.dies = instance.dies.size();
    if (place.dies == 0) throw UsageError(fmt::format("{}: no dies", setup));
    place.records_bytes = file_.shape(group + "/records")[0];
    for (const char* name : {"starts", "ends", "record_bytes"}) {
      const std::vector<std::size_t> shape = file_.shape(group + "/" + name);
      if (shape.size() != 2 || shape[1] != place.dies)
        throw UsageError(fmt::format("{}: '{}/{}' is not for {} dies", path(), group, name, place.dies));
      const auto steps = static_cast<std::int64_t>(shape[0]);
      if (name != std::string("starts") && steps != place.steps)
        throw UsageError(
            fmt::format("{}: {} has {} steps in 'starts', {} in '{}'", path(), group, place.steps, steps, name));
      place.steps = steps;
    }
    places_.emplace(instance.id, place);
    head_.instances.push_back(std::move(instance));
  }
}

RecordedStep RecordReader::next(const InstanceId& instance) {
  Place& place = places_.at(instance);
  expect(place.step < place.steps, "a step behind the end of a record");
  const std::string group = group_of(instance);
  std::vector<std::int64_t> row(place.dies);
  const auto read = [&](const char* name) {
    file_.read_rows(group + "/" + name, static_cast<std::size_t>(place.step), std::span(row));
  };
  RecordedStep step;
  read("starts");
  for (const std::int64_t ns : row) step.starts.emplace_back(RunSpan(ns));
  read("ends");
  for (const std::int64_t ns : row) step.ends.emplace_back(RunSpan(ns));
  read("record_bytes");
  std::size_t all = 0;
  for (const std::int64_t bytes : row) {
    if (bytes < 0 || static_cast<std::size_t>(bytes) > place.records_bytes - place.offset - all)
      throw UsageError(fmt::format("{}: '{}/records' is shorter than its steps", path(), group));
    all += static_cast<std::size_t>(bytes);
  }
  // In one piece: what is compressed together is read once.
  std::vector<std::byte> records(all);
  file_.read_rows(group + "/records", place.offset, std::span(records));
  place.offset += all;
  std::span<const std::byte> rest = records;
  for (const std::int64_t bytes : row) {
    const auto record = rest.first(static_cast<std::size_t>(bytes));
    step.records.emplace_back(record.begin(), record.end());
    rest = rest.subspan(record.size());
  }
  ++place.step;
  return step;
}

}  // namespace supernode::serving

// The record of a run as a file, and its steps priced again.
#include "runtime/serving/record/record_file.hpp"

#include <fstream>

#include "runtime/core/error.hpp"
#include "runtime/core/files.hpp"
#include "runtime/serving/record/replay.hpp"
#include "tests/serving/recorded_steps.hpp"
#include "tests/support/catch.hpp"

using namespace supernode;
using namespace supernode::serving;
using namespace supernode::serving::test;
using Catch::Matchers::Contains;
using emulation::Stage;

namespace {

constexpr int kPrefillSteps = 3, kDecodeSteps = 5;

/// @param prefill_first one instance's steps before the other's, else in turns
void write_record(const std::string& path, const RunHead& head, bool prefill_first = true) {
  RecordWriter writer(path, IfExists::replace, head);
  const auto write = [&](int which, int step) {
    const RunHead::Instance& instance = head.instances[static_cast<std::size_t>(which)];
    writer.on_step(instance.id, small_step(head, instance, step));
  };
  for (int step = 0; step < kPrefillSteps; ++step) {
    if (!prefill_first) write(1, step);
    write(0, step);
  }
  for (int step = prefill_first ? 0 : kPrefillSteps; step < kDecodeSteps; ++step) write(1, step);
  writer.close();
}

double seconds_of(const std::vector<ReplayedTerm>& terms, const std::string& name, double ReplayedTerm::*machine) {
  for (const ReplayedTerm& term : terms)
    if (term.name == name) return term.*machine;
  return 0;
}

}  // namespace

TEST_CASE("a record is read as it was written, however the instances were interleaved") {
  const RunHead head = small_head();
  for (const bool prefill_first : {true, false}) {
    const TemporaryPath path(".h5");
    write_record(path.name, head, prefill_first);
    RecordReader reader(path.name);
    CHECK(reader.head().program == "0.0.0");
    CHECK(to_text(reader.head().machine) == to_text(head.machine));
    CHECK(to_json(reader.head().model) == to_json(head.model));
    REQUIRE(reader.head().instances.size() == 2);
    for (std::size_t i = 0; i < 2; ++i) {
      const RunHead::Instance &one = head.instances[i], &other = reader.head().instances[i];
      CHECK(other.id == one.id);
      CHECK(other.setup.stage == one.setup.stage);
      CHECK(to_json(other.setup, other.dies) == to_json(one.setup, one.dies));
      REQUIRE(reader.steps(one.id) == (i == 0 ? kPrefillSteps : kDecodeSteps));
      for (int step = 0; step < reader.steps(one.id); ++step) {
        const StepReport written = small_step(head, one, step);
        const RecordedStep read = reader.next(one.id);
        REQUIRE(read.records.size() == written.dies.size());
        for (std::size_t die = 0; die < read.records.size(); ++die) {
          CHECK(read.starts[die] == written.dies[die].start);
          CHECK(read.ends[die] == written.dies[die].end);
          CHECK(read.records[die] == written.dies[die].record);
        }
      }
    }
  }
}

TEST_CASE("a record that is not closed leaves nothing") {
  const TemporaryPath path(".h5");
  { RecordWriter writer(path.name, IfExists::refuse, small_head()); }
  CHECK_FALSE(std::filesystem::exists(path.name));
}

TEST_CASE("on its own machine a record gives its own ends; on one with slower links exchanges take longer") {
  const TemporaryPath path(".h5");
  const RunHead head = small_head();
  write_record(path.name, head);
  RecordReader same(path.name);
  for (const ReplayedInstance& instance : replay(same, same.head().machine)) {
    CHECK(instance.steps.other_ends == 0);
    CHECK(instance.steps.replayed_ms == instance.steps.recorded_ms);
    double sum = 0;
    for (const ReplayedTerm& term : instance.steps.terms) {
      CHECK(term.replayed_s == term.recorded_s);
      sum += term.recorded_s;
    }
    CHECK(sum > 0);
  }
  emulation::Machine slow = head.machine;
  slow.fabric.lane_gbps /= 50;
  slow.fabric.die_to_die_gbps /= 50;
  RecordReader other(path.name);
  const std::vector<ReplayedInstance> replayed = replay(other, slow);
  REQUIRE(replayed.size() == 2);
  CHECK(replayed[0].id == InstanceId{Stage::prefill, 0});
  CHECK(replayed[0].dies == 2);
  CHECK(replayed[1].steps.recorded_ms.size() == kDecodeSteps);
  for (const ReplayedInstance& instance : replayed) {
    CHECK(instance.steps.other_ends == 0);
    for (std::size_t step = 0; step < instance.steps.recorded_ms.size(); ++step)
      CHECK(instance.steps.replayed_ms[step] > instance.steps.recorded_ms[step]);
  }
  const ReplayedSteps& decode = replayed[1].steps;
  for (const char* phase : {"dispatch", "combine"})
    CHECK(seconds_of(decode.terms, phase, &ReplayedTerm::replayed_s) >
          seconds_of(decode.terms, phase, &ReplayedTerm::recorded_s));
  // Of the dies that end last, which need not be the same.
  CHECK(seconds_of(decode.terms, "dense layer", &ReplayedTerm::replayed_s) ==
        Approx(seconds_of(decode.terms, "dense layer", &ReplayedTerm::recorded_s)).epsilon(0.05));
}

TEST_CASE("ends that the record does not have are counted") {
  const TemporaryPath path(".h5");
  const RunHead head = small_head();
  {
    RecordWriter writer(path.name, IfExists::replace, head);
    StepReport report = small_step(head, head.instances[1], 0);
    report.dies[1].end += RunSpan(1);
    writer.on_step(head.instances[1].id, report);
    writer.close();
  }
  RecordReader record(path.name);
  const auto replayed = replay(record, head.machine);
  CHECK(replayed[0].steps.recorded_ms.empty());
  CHECK(replayed[1].steps.other_ends == 1);
}

TEST_CASE("a machine with too few dies, and a file that is no record, are refused in one line") {
  const TemporaryPath path(".h5");
  const RunHead head = small_head();
  write_record(path.name, head);
  emulation::Machine small = head.machine;
  small.nodes = 1;
  small.source = "small.ini";
  RecordReader record(path.name);
  CHECK_THROWS_WITH(replay(record, small), Contains("decode 0 of the record plays die 16, small.ini has 16 dies"));

  const auto refused = [&](const std::string& why) {
    INFO(why);
    CHECK_THROWS_AS(RecordReader(path.name), UsageError);
    CHECK_THROWS_WITH(RecordReader(path.name), Contains(path.name) && Contains(why));
  };
  const std::string whole = read_file(path.name);
  for (const std::size_t size : {std::size_t{0}, std::size_t{1000}, whole.size() / 2, whole.size() - 1}) {
    std::ofstream(path.name, std::ios::binary) << whole.substr(0, size);
    refused("not an HDF5 file, or truncated");
  }
  std::ofstream(path.name) << "no HDF5";
  refused("not an HDF5 file");
  std::filesystem::remove(path.name);
  refused("no such file");
  const auto with_attributes = [&](const std::vector<std::pair<std::string, std::string>>& attributes) {
    ResultFile file(path.name, IfExists::replace);
    for (const auto& [name, text] : attributes) file.attribute("/", name, text);
    file.close();
  };
  with_attributes({{"schema", "supernode.validate/1"}});
  refused("no record of a run");
  with_attributes({{"format", "supernode.record"}, {"format_version", "2"}});
  refused("a record of version '2', this program reads version 1");
  const std::pair<std::string, std::string> format{"format", "supernode.record"}, version{"format_version", "1"},
      machine{"machine", to_text(head.machine)};
  with_attributes({format, version});
  refused("attribute 'machine'");
  with_attributes({format, version, machine, {"model", "{}"}});
  refused("attribute 'model': 'name' is missing");
  with_attributes({format, version, machine, {"model", to_text(to_json(head.model))}});
  refused("without instances");
}

TEST_CASE("a record whose data are damaged is refused with instance and step") {
  const TemporaryPath path(".h5");
  const RunHead head = small_head();
  const RunHead::Instance& decode = head.instances[1];
  /// One step; the caller says what its records are.
  const auto write = [&](std::int64_t record_bytes, const std::vector<std::byte>& records, std::size_t starts = 3) {
    ResultFile file(path.name, IfExists::replace);
    file.attribute("/", "format", "supernode.record");
    file.attribute("/", "format_version", "1");
    file.attribute("/", "machine", to_text(head.machine));
    file.attribute("/", "model", to_text(to_json(head.model)));
    file.create_growing("/decode/0/starts", ValueType::int64, 3);
    file.append("/decode/0/starts", std::vector<std::int64_t>(starts, 0));
    for (const char* name : {"/decode/0/ends", "/decode/0/record_bytes"}) {
      file.create_growing(name, ValueType::int64, 3);
      file.append(name, std::vector<std::int64_t>(3, record_bytes));
    }
    file.create_growing("/decode/0/records", ValueType::byte);
    file.append("/decode/0/records", records);
    file.attribute("/decode/0", "setup", to_text(to_json(decode.setup, decode.dies)));
    file.close();
  };
  const auto refused = [&](const std::string& why) {
    INFO(why);
    const auto read = [&] {
      RecordReader record(path.name);
      replay(record, head.machine);
    };
    CHECK_THROWS_AS(read(), UsageError);
    CHECK_THROWS_WITH(read(), Contains(path.name) && Contains(why));
  };
  write(100, std::vector<std::byte>(299));
  refused("'/decode/0/records' is shorter than its steps");
  write(-1, std::vector<std::byte>(300));
  refused("shorter");
  write(100, std::vector<std::byte>(300));
  refused("decode 0, step 0: record of a step of version 0");
  write(100, std::vector<std::byte>(300), 6);
  refused("/decode/0 has 2 steps in 'starts', 1 in 'ends'");
  // Of a step with fewer layers.
  StartedStep other;
  other.step.microbatches = {{{}, {1, 2, 3}}};
  const std::vector<std::byte> one = encode_step(other);
  std::vector<std::byte> three;
  for (int i = 0; i < 3; ++i) three.insert(three.end(), one.begin(), one.end());
  write(static_cast<std::int64_t>(one.size()), three);
  refused("decode 0, step 0: record of a step: 3 rows");
}

// A pool with files that is killed by pool_kill_test: `write` stores and removes for ever and notes each intention and
// each acknowledgement; `verify` holds what a restarted pool serves against the notes.
#include <algorithm>
#include <cstdio>
#include <map>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "memory_pool/client.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/mpi/agreement.hpp"
#include "runtime/core/mpi/mpi_call.hpp"
#include "runtime/core/mpi/session.hpp"
#include "tests/memory_pool/payload.hpp"

using namespace supernode;
using namespace supernode::pool;
using test::check_payload;
using test::key_number;
using test::make_payload;

namespace {

constexpr std::uint64_t keys_each = 300;
constexpr std::uint64_t direct = 64 << 10, most_bytes = 400 << 10;

/// Written by one write(2), so it outlives the process once it is there.
struct Note {
  std::uint64_t number, version;  ///< version 0: removed
  std::uint64_t acknowledged;     ///< else intended
};

/// What a key may be: the version acknowledged last, or that of operations under way when the process was killed.
struct State {
  std::uint64_t sure = 0;
  std::vector<std::uint64_t> perhaps;
};

std::map<std::uint64_t, State> read_notes(const std::string& path, std::uint64_t& last_version) {
  std::map<std::uint64_t, State> states;
  std::FILE* file = std::fopen(path.c_str(), "rb");
  Note note;
  while (file && std::fread(&note, sizeof note, 1, file) == 1) {
    last_version = std::max(last_version, note.version);
    State& state = states[note.number];
    if (note.acknowledged == 0) {
      state.perhaps.push_back(note.version);
    } else {
      state.sure = note.version;
      state.perhaps.clear();
    }
  }
  if (file) std::fclose(file);
  return states;
}

/// On both sides of PoolConfig::directory_direct.
std::uint64_t draw_bytes(Random& draw) { return 24 + draw.below(draw.uniform() < 0.2 ? most_bytes - 24 : 20000); }

void write_for_ever(Client& client, const std::string& path, std::uint64_t first_key, std::uint64_t version) {
  const int notes = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  const auto note = [&](const Note& text) {
    if (::write(notes, &text, sizeof text) != sizeof text) ::_exit(3);
  };
  Random draw(version);
  while (true) {
    const std::uint64_t number = first_key + draw.below(keys_each);
    const Key key = key_number(number);
    const bool removal = draw.uniform() < 0.15;
    const std::uint64_t next = removal ? 0 : ++version;
    note({number, next, 0});
    const Status status =
        removal ? client.remove(key) : client.put(key, make_payload(key, next, draw_bytes(draw)), PutMode::replace);
    if (status == Status::stored || status == Status::removed || status == Status::not_there) note({number, next, 1});
  }
}

/// The number of keys that are not as they must be.
long long verify(Client& client, const std::map<std::uint64_t, State>& states) {
  std::vector<std::byte> buffer(most_bytes);
  long long wrong = 0;
  for (const auto& [number, state] : states) {
    const Key key = key_number(number);
    const Found found = client.get(key, buffer);
    const long long there = found.hit() ? check_payload(key, std::span(buffer).first(found.length)) : 0;
    const auto is_there = [there](std::uint64_t version) { return there == static_cast<long long>(version); };
    const bool good = is_there(state.sure) || std::any_of(state.perhaps.begin(), state.perhaps.end(), is_there);
    if (!good)
      std::printf("key %llu: version %lld is there (-1: a wrong byte; 0: none), %llu was acknowledged\n",
                  static_cast<unsigned long long>(number), there, static_cast<unsigned long long>(state.sure));
    wrong += !good;
  }
  return wrong;
}

int run(const std::string& mode, const std::string& directory) {
  const Communicator world = Communicator::world();
  // Where the driver finds whom to kill.
  const std::string pid_file = directory + "/pids/" + std::to_string(world.rank());
  if (std::FILE* file = std::fopen((pid_file + ".new").c_str(), "w")) {
    std::fprintf(file, "%d", ::getpid());
    std::fclose(file);
    std::rename((pid_file + ".new").c_str(), pid_file.c_str());
  }
  PoolConfig config;
  config.capacity = {2 << 20};  // a small part of what is written: blocks come back from the files
  config.granule = {256};
  config.directory = directory + "/pool";
  config.directory_segment = {4 << 20};
  config.directory_limit = {64 << 20};  // twice what lives: nothing is evicted legally, and files are cleaned
  config.directory_direct = {direct};
  Pool pool(world, {0, 1}, config);
  const Communicator clients = world.split(pool.is_owner() ? MPI_UNDEFINED : 0, 0);
  long long wrong = 0, checked = 0, past_cache = 0;
  if (clients) {
    const std::string notes = directory + "/notes-" + std::to_string(clients.rank());
    std::uint64_t version = 0;
    const std::map<std::uint64_t, State> states = read_notes(notes, version);
    {
      Client client(pool, "client " + std::to_string(clients.rank()));
      const std::uint64_t first_key = 1000 * static_cast<std::uint64_t>(clients.rank());
      if (mode == "write") write_for_ever(client, notes, first_key, version);
      wrong = verify(client, states);
      checked = static_cast<long long>(states.size());
    }
    clients.barrier();
    if (clients.rank() == 0) pool.stop();
  } else {
    pool.serve_until_stopped();
    const OwnerStats stats = pool.owner_stats();
    wrong += static_cast<long long>(stats.files.corrupt + stats.files.foreign);
    past_cache = static_cast<long long>(stats.files.direct);
  }
  wrong = world.sum(wrong);
  checked = world.sum(checked);
  past_cache = world.sum(past_cache);
  if (world.rank() == 0)
    std::printf("%lld keys checked, %lld wrong; %lld records read past the page cache\n", checked, wrong, past_cache);
  return wrong == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const Session session(argc, argv);
  return run(argv[1], argv[2]);
}

#include "memory_pool/model_cache.hpp"

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "memory_pool/client/model_contents.hpp"
#include "memory_pool/owner/model_directory.hpp"
#include "memory_pool/transport/pool_access.hpp"
#include "runtime/core/error.hpp"
#include "runtime/core/mpi/deadline.hpp"

namespace supernode::pool {
namespace {

using internal::ModelStep;

using internal::key_of_contents;
using internal::key_of_model;
using internal::namespace_of_model;
using Contents = internal::ModelContents;

/// The first owner in the view keeps the directory.
int directory_owner(const internal::PoolCore& core) {
  for (const int owner : core.owners)
    if (core.ring.is_live(owner)) return owner;
  return -1;
}

internal::ModelDirectory::Answer ask_directory(internal::PoolCore& core, ModelStep step, const Key& model,
                                               std::uint64_t claimant) {
  const internal::ModelRequest request{step, model, claimant};
  for (int owner = directory_owner(core); owner >= 0; owner = directory_owner(core))
    if (const std::optional<internal::ModelReply> reply = core.call(owner, request))
      return {reply->status, reply->model};
  return {Status::owner_down, model};
}

std::optional<Contents> read_contents(Client& client, const Key& model) {
  const Key key = key_of_contents(model);
  const Found there = client.lookup({&key, 1}).front();
  if (!there.hit()) return std::nullopt;
  std::vector<std::byte> text(there.length);
  const Found found = client.get(key, text);
  if (!found.hit() || found.length != text.size()) return std::nullopt;
  return Contents::parse(model, text);
}

bool all_there(Client& client, const Contents& contents) {
  const std::vector<Found> found = client.lookup(contents.all_blocks());
  return std::all_of(found.begin(), found.end(), [](const Found& block) { return block.hit(); });
}

bool is_there(Client& client, const Key& model) {
  const std::optional<Contents> contents = read_contents(client, model);
  return contents && all_there(client, *contents);
}

}  // namespace

struct ModelCache::Impl {
  Impl(Pool& its_pool, std::uint64_t bytes)
      : pool(its_pool),
        core(internal::PoolAccess::core(its_pool)),
        block_bytes(bytes),
        claimant(core.unique_number()) {}

  internal::ModelDirectory::Answer ask(ModelStep step, const Key& model) {
    return ask_directory(core, step, model, claimant);
  }
  /// Takes a model's blocks off all owners.
  Status erase(const Key& model) { return core.delete_namespace(namespace_of_model(model)); }
  Status promise_room(const Contents& contents);
  Status bring_in(Client& client, const Contents& contents, FileSource& source, std::uint64_t& bytes_read);
  Status store(Client& client, const Contents& contents, FileSource& source, std::uint64_t& bytes_read);

  Pool& pool;
  internal::PoolCore& core;
  std::uint64_t block_bytes;
  std::uint64_t claimant;
};

/// A namespace for just these blocks; models that nobody uses are evicted for it.
Status ModelCache::Impl::promise_room(const Contents& contents) {
  const std::uint64_t granule = core.config.granule.value;
  std::map<int, std::uint64_t> quotas;
  for (const int owner : core.owners) quotas[owner] = 1;  // an owner without a block of it must know the namespace, too
  const auto add = [&](const Key& key, std::uint64_t bytes) {
    quotas[core.ring.owner_of(key)] += (std::max<std::uint64_t>(bytes, 1) + granule - 1) / granule * granule;
  };
  for (const auto& [file, bytes] : contents.files)
    for (std::uint64_t number = 0; number < contents.blocks(file); ++number)
      add(contents.block(file, number), contents.bytes_of_block(file, number));
  add(key_of_contents(contents.model), contents.text().size());
  while (true) {
    const Status status =
        core.create_namespace(namespace_of_model(contents.model), quotas, internal::NamespaceKind::whole);
    if (status != Status::quota) return status;
    const internal::ModelDirectory::Answer victim = ask(ModelStep::make_room, contents.model);
    if (victim.status != Status::removed) return victim.status == Status::owner_down ? victim.status : Status::quota;
    erase(victim.model);
  }
}

/// All blocks, then the contents. stored, or what went wrong.
Status ModelCache::Impl::store(Client& client, const Contents& contents, FileSource& source,
                               std::uint64_t& bytes_read) {
  double renewed = core.now();
  const auto fits = [](Status status) {
    return status == Status::stored || status == Status::already_there || status == Status::not_durable;
  };
  constexpr std::size_t at_once = 16;
  std::vector<Key> keys;
  std::vector<std::vector<std::byte>> blocks;
  const auto flush = [&] {
    std::vector<PutItem> items;
    for (std::size_t i = 0; i < keys.size(); ++i) items.push_back({keys[i], blocks[i]});
    Status worst = Status::stored;
    for (const Status status : client.put_batch(items))
      if (!fits(status)) worst = status;
    keys.clear();
    blocks.clear();
    return worst;
  };
  for (const auto& [file, bytes] : contents.files)
    for (std::uint64_t number = 0; number < contents.blocks(file); ++number) {
      keys.push_back(contents.block(file, number));
      blocks.emplace_back(contents.bytes_of_block(file, number));
      source.read(file, number * contents.block_bytes, blocks.back());
      bytes_read += blocks.back().size();
      if (keys.size() < at_once) continue;
      if (const Status status = flush(); status != Status::stored) return status;
      if (core.now() - renewed < core.config.lease / 4) continue;
      renewed = core.now();
      ask(ModelStep::claim, contents.model);
    }
  if (const Status status = flush(); status != Status::stored) return status;
  const Status status = client.put(key_of_contents(contents.model), contents.text());
  return fits(status) ? Status::stored : status;
}

/// What the claimant does. After a failure nothing is left.
Status ModelCache::Impl::bring_in(Client& client, const Contents& contents, FileSource& source,
                                  std::uint64_t& bytes_read) {
  try {
    Status status = promise_room(contents);
    // Blocks may be in the files of the owners, or the directory has been lost, not the model.
    const bool promised = status == Status::stored || status == Status::already_there;
    const bool here = promised && is_there(client, contents.model);
    if (promised && !here) status = store(client, contents, source, bytes_read);
    const bool good = here || (status == Status::stored && is_there(client, contents.model));
    if (good && ask(ModelStep::resident, contents.model).status == Status::stored)
      return here ? Status::already_there : Status::stored;
    erase(contents.model);
    ask(ModelStep::forget, contents.model);
    return status == Status::stored || status == Status::already_there ? Status::full : status;
  } catch (...) {
    erase(contents.model);
    ask(ModelStep::forget, contents.model);
    throw;
  }
}

ModelCache::ModelCache(Pool& pool, std::uint64_t block_bytes) : impl_(std::make_unique<Impl>(pool, block_bytes)) {
  expect(block_bytes > 0, "model blocks of no bytes");
}

ModelCache::~ModelCache() = default;

bool ModelCache::contains(const ModelId& id) {
  const Key model = key_of_model(id);
  Client client(impl_->pool, namespace_of_model(model));
  return is_there(client, model);
}

ModelCache::Outcome ModelCache::prefetch(const ModelId& id, FileSource& source) {
  Contents contents{key_of_model(id), impl_->block_bytes, {}};
  for (const std::string& name : source.names()) contents.files[name] = *source.size(name);
  Outcome outcome;
  outcome.bytes = contents.total_bytes();
  Client client(impl_->pool, namespace_of_model(contents.model));
  SpinWait spin(Idle::sleep);
  while (true) {
    outcome.status = impl_->ask(ModelStep::claim, contents.model).status;
    if (outcome.status == Status::stored) {
      outcome.status = impl_->bring_in(client, contents, source, outcome.bytes_read);
      return outcome;
    }
    if (outcome.status == Status::owner_down) return outcome;
    if (outcome.status == Status::already_there) {
      if (is_there(client, contents.model)) return outcome;
      impl_->ask(ModelStep::forget, contents.model);  // an owner has lost its part
      impl_->erase(contents.model);
      continue;
    }
    if (impl_->pool.progress())
      spin.reset();
    else
      spin.turn();
  }
}

std::shared_ptr<PooledModel> ModelCache::open(const ModelId& id) {
  const Key model = key_of_model(id);
  if (impl_->ask(ModelStep::pin, model).status != Status::stored) return nullptr;
  Client client(impl_->pool, namespace_of_model(model));
  std::optional<Contents> contents = read_contents(client, model);
  if (contents) return std::make_shared<PooledModel>(impl_->pool, id, std::make_unique<Contents>(std::move(*contents)));
  impl_->ask(ModelStep::unpin, model);
  return nullptr;
}

bool ModelCache::switch_to(std::shared_ptr<PooledModel>& current, const ModelId& to) {
  std::shared_ptr<PooledModel> next = open(to);
  if (!next) return false;
  current = std::move(next);
  return true;
}

Status ModelCache::remove(const ModelId& id) {
  const Key model = key_of_model(id);
  impl_->ask(ModelStep::forget, model);
  return impl_->erase(model);
}

PooledModel::PooledModel(Pool& pool, const ModelId& id, std::unique_ptr<internal::ModelContents> contents)
    : pool_(pool), id_(id), contents_(std::move(contents)), client_(pool, namespace_of_model(contents_->model)) {}

PooledModel::~PooledModel() { ask_directory(internal::PoolAccess::core(pool_), ModelStep::unpin, contents_->model, 0); }

std::uint64_t PooledModel::total_bytes() const { return contents_->total_bytes(); }

std::string PooledModel::place() const { return fmt::format("{} (in the pool)", id_.model); }

std::vector<std::string> PooledModel::names() const {
  std::vector<std::string> names;
  for (const auto& [name, bytes] : contents_->files) names.push_back(name);
  return names;
}

std::optional<std::uint64_t> PooledModel::size(const std::string& name) const {
  const auto found = contents_->files.find(name);
  if (found == contents_->files.end()) return std::nullopt;
  return found->second;
}

void PooledModel::read(const std::string& name, std::uint64_t offset, std::span<std::byte> out) {
  if (out.empty()) return;
  const std::uint64_t block_bytes = contents_->block_bytes, end = offset + out.size();
  expect(end <= contents_->files.at(name), "a read beyond the end of a pooled file");
  const std::uint64_t first = offset / block_bytes, last = (end - 1) / block_bytes;
  // Whole blocks go where they belong; the two at the ends may be wanted in part.
  std::map<std::uint64_t, std::vector<std::byte>> partial;
  std::vector<GetItem> items;
  for (std::uint64_t number = first; number <= last; ++number) {
    const std::uint64_t begin = number * block_bytes, bytes = contents_->bytes_of_block(name, number);
    const bool whole = begin >= offset && begin + bytes <= end;
    const std::span<std::byte> destination =
        whole ? out.subspan(begin - offset, bytes) : std::span(partial[number] = std::vector<std::byte>(bytes));
    items.push_back({contents_->block(name, number), destination});
  }
  const std::vector<Found> found = client_.get_batch(items);
  for (std::size_t i = 0; i < items.size(); ++i)
    if (!found[i].hit() || found[i].length != items[i].destination.size())
      throw EnvironmentError(fmt::format("{}: '{}': block {} has been lost ({})", place(), name, first + i,
                                         to_string(found[i].hit() ? MissReason::wrong_size : found[i].reason)));
  for (const auto& [number, bytes] : partial) {
    const std::uint64_t begin = std::max(offset, number * block_bytes);
    const std::uint64_t stop = std::min<std::uint64_t>(end, number * block_bytes + bytes.size());
    std::copy_n(bytes.begin() + static_cast<long>(begin - number * block_bytes), stop - begin,
                out.begin() + static_cast<long>(begin - offset));
  }
}

}  // namespace supernode::pool

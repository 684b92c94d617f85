#pragma once
// What a model in the pool consists of, and the keys of its parts. Pure.

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "memory_pool/key.hpp"
#include "memory_pool/model_cache.hpp"

namespace supernode::pool::internal {

Key key_of_model(const ModelId& id);
/// A name that follows from the key alone: whoever has to delete a model knows no more of it.
std::string namespace_of_model(const Key& model);
/// Of the block that holds a model's contents.
Key key_of_contents(const Key& model);

/// The files of a model, cut into blocks. In the pool it is a block of its own, stored last.
struct ModelContents {
  Key model;
  std::uint64_t block_bytes = 1;
  std::map<std::string, std::uint64_t> files;  ///< sizes

  Key block(const std::string& file, std::uint64_t number) const;
  std::uint64_t blocks(const std::string& file) const;
  std::uint64_t bytes_of_block(const std::string& file, std::uint64_t number) const;
  std::uint64_t total_bytes() const;
  std::vector<Key> all_blocks() const;

  std::vector<std::byte> text() const;
  static ModelContents parse(const Key& model, std::span<const std::byte> text);
};

}  // namespace supernode::pool::internal

#pragma once
// The weights of a folder in Hugging Face's form: model.safetensors, or model.safetensors.index.json with shards.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "moe/checkpoint/safetensors.hpp"
#include "moe/checkpoint/weight_store.hpp"
#include "runtime/core/file_source.hpp"

namespace supernode::moe {

/// Files on disk are mapped, so that only the pages that are touched are read; of a FileSource the tensors that are
/// asked for are fetched. Shards are opened when they are needed first.
class SafetensorsFolder : public WeightStore {
 public:
  /// @throws UsageError naming the folder when neither form is there, or both with different weights, or the index is
  /// malformed or names a file that does not exist. A shard that holds what the index does not say is refused when it
  /// is opened.
  explicit SafetensorsFolder(const std::string& directory);
  /// The same of files that lie elsewhere, which live as long as this object.
  explicit SafetensorsFolder(std::shared_ptr<FileSource> source);

  bool has(const std::string& tensor) override;
  std::vector<float> read(const std::string& tensor, std::span<const std::int64_t> shape) override;
  std::optional<Int8Matrix> read_int8(const std::string&, std::span<const std::int64_t>) override {
    return std::nullopt;
  }
  std::vector<std::string> names() override;
  std::vector<TensorInfo> tensors() override;

 private:
  /// Opens the single file, or reads the index.
  void find_weights();
  /// @throws UsageError when there are shards too, beside the single file.
  void refuse_second_set() const;
  std::vector<std::string> files() const;
  bool exists(const std::string& file) const;
  std::string path_of(const std::string& file) const { return directory_ + "/" + file; }
  std::map<std::string, std::string> read_index() const;
  SafetensorsFile& shard_of(const std::string& tensor);
  SafetensorsFile& open_shard(const std::string& file);
  /// @throws UsageError unless the index places `tensor` in `file`.
  void check_place(const std::string& tensor, const std::string& file) const;

  std::string directory_;
  std::shared_ptr<FileSource> source_;              ///< null: files on disk
  std::map<std::string, std::string> shard_names_;  ///< tensor -> file; empty: all in the single file
  std::map<std::string, SafetensorsFile> shards_;   ///< open ones, by file
};

}  // namespace supernode::moe

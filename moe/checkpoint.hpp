#pragma once
// A model: a directory in Hugging Face's form (config.json and model.safetensors, or model.safetensors.index.json with
// shards), or one HDF5 file in our own (checkpoint/hdf5_checkpoint.hpp).

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "moe/model_config.hpp"
#include "moe/tensor_info.hpp"
#include "runtime/core/file_source.hpp"

namespace supernode::moe {

class WeightStore;

/// Reads configuration and weights. Local: each rank opens its own and reads the tensors it wants; only their pages are
/// touched. Move-only; not thread-safe (shards are mapped when first needed).
class Checkpoint {
 public:
  /// Reads the configuration and the index. @param directory the folder, or the HDF5 file.
  /// @throws UsageError when the folder, config.json or the weights are missing, a shard of the index does not exist,
  /// or any of them is malformed; when weights are quantised, or there are tensors in computed layers that the model
  /// does not read, or two sets of weights. The message names file and tensor.
  explicit Checkpoint(const std::string& directory);
  /// The same from files that lie elsewhere, which live as long as the checkpoint. Reads of safetensors bring the
  /// tensors that are asked for; an HDF5 file is brought as a whole.
  /// @throws as above, and EnvironmentError when the source cannot be read.
  explicit Checkpoint(std::shared_ptr<FileSource> source);
  ~Checkpoint();
  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;

  /// The files of `path` that make up a checkpoint: a folder's, or one HDF5 file.
  static DiskFiles files_of(const std::string& path);
  /// Weights without files, for measurements: matrices uniform with variance 1 / columns, norms 1, biases 0; a function
  /// of (seed, tensor's name) only. Has every tensor that is asked for.
  static Checkpoint random(const ModelConfig& config, std::uint64_t seed);

  const std::string& directory() const { return directory_; }
  const std::string& config_text() const { return config_text_; }  ///< config.json
  const ModelConfig& config() const { return config_; }

  /// One line on tensors that nobody reads, outside of the layers; empty: none. For one rank to say.
  const std::string& unread_note() const { return unread_note_; }

  bool has(const std::string& tensor);
  /// Whether there is an MTP module: some copies of a model keep it in config.json only.
  bool has_mtp();
  /// The elements of `tensor` as f32 (from F32, BF16, F16 or F64; in HDF5 int8 too), row-major.
  /// @throws UsageError naming file and tensor when it is missing, of another shape or type, or holds a value that is
  /// not finite.
  std::vector<float> read(const std::string& tensor, std::initializer_list<std::int64_t> shape) {
    return read(tensor, std::span(shape.begin(), shape.size()));
  }
  std::vector<float> read(const std::string& tensor, std::span<const std::int64_t> shape);
  /// A matrix in int8 as it is stored, so that it needs no rounding anew; nothing if it is stored otherwise.
  /// @throws as read().
  std::optional<Int8Matrix> read_int8(const std::string& tensor, std::initializer_list<std::int64_t> shape);
  /// All tensors, by name; opens every shard.
  std::vector<TensorInfo> tensors();

 private:
  Checkpoint() = default;
  /// @throws UsageError where the configuration says that weights are quantised and their types say so too.
  void check_types();
  /// @throws UsageError for tensors that the model should read, but does not, and for two heads. Fills unread_note_.
  void check_tensors();

  std::string directory_, config_text_, unread_note_;
  ModelConfig config_;
  std::unique_ptr<WeightStore> weights_;
};

}  // namespace supernode::moe

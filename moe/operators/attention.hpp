#pragma once
// Multi-head latent attention of one layer.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "moe/attention_path.hpp"
#include "moe/checkpoint.hpp"
#include "moe/kv_cache.hpp"
#include "moe/operators/rope.hpp"
#include "moe/products/gemm.hpp"
#include "moe/products/kept_keys.hpp"
#include "runtime/core/buffer.hpp"

namespace supernode::moe {

/// New tokens of one sequence in this step. Their places in the cache exist already (KvCache::extend).
struct AttentionSpan {
  KvCache* cache = nullptr;
  int start = 0;      ///< position of the first new token
  int count = 0;      ///< new tokens
  int first_row = 0;  ///< of the step's rows
  /// Of a span that is a part of one: that one's start and count, by which the way through attention is chosen, so that
  /// a part goes the way that the whole would. 0: it is no part.
  int whole_start = 0, whole_count = 0;

  int deciding_start() const { return whole_count > 0 ? whole_start : start; }
  int deciding_count() const { return whole_count > 0 ? whole_count : count; }
};

/// Heads [first, first + count).
struct HeadRange {
  int first = 0, count = 0;
};

/// Of the ranks that share attention by head, the part of one: as even as heads can be dealt out.
constexpr HeadRange heads_of(int heads, int ranks, int rank) {
  const int first = heads * rank / ranks;
  return {first, heads * (rank + 1) / ranks - first};
}

/// Rows of some heads. Behind the last one lie spare_rows more that may be read and written.
template <class Value>
struct HeadRows {
  Value* values = nullptr;  ///< of the first row and head
  std::ptrdiff_t stride = 0;

  /// Spare rows fall on rows that are written later, or on the spare ones.
  static constexpr int spare_rows = 3;
};

/// Buffers that the layers of a model share. Those that depend on the context grow when a longer one comes, by half or
/// more at a time.
struct AttentionScratch {
  /// @param max_rows rows of a step
  AttentionScratch(const ModelConfig& config, int max_rows);
  /// Moves what fill_cache() has left for rows [from, from + count) to rows [to, to + count), to <= from.
  void move_rows(int from, int to, int count);

  int down_width, half_rope;
  HugePageBuffer<float> down;            ///< [rows, down_width = q_lora + kv_width]: the joint projection of the input
  HugePageBuffer<float> q_latent;        ///< [rows, q_lora]
  HugePageBuffer<float> q;               ///< [rows, heads * qk_dim]
  HugePageBuffer<float> cosines, sines;  ///< [rows, half_rope = rope_dim / 2] of the step's positions
  HugePageBuffer<float> heads_out;       ///< [rows, heads * v_dim]
  HugePageBuffer<float> absorbed;        ///< [rows, heads, kv_width]: queries in the latent space
  HugePageBuffer<float> context;         ///< [rows, heads, kv_lora]: attended latents
  HugePageBuffer<float> head_in, head_out;     ///< [rows, widest] dense operands of one head
  HugePageBuffer<float> latents, keys_values;  ///< [tokens, kv_lora], [tokens, nope + v] of one head, or of all heads
  HugePageBuffer<float> scores;                ///< [queries, tokens], [tokens, lanes] absorbed; attend_kept()'s scratch
  HugePageBuffer<float> columns;  ///< [kv_width + 1, lanes]: queries as columns, and the sums of their weights
};

/// The weights and the arithmetic. Three forms with the same result, see README.md: *plain* expands keys and values
/// from the latents (cheaper for many queries), *absorbed* moves the queries into the latent space (cheaper for few),
/// *kept* has each token's keys and values since they were needed first (decode, if they are small).
class Attention {
 public:
  /// Reads `prefix`.{q_a_proj, ...}. @throws UsageError as Checkpoint::read.
  Attention(Checkpoint& checkpoint, const std::string& prefix, ComputeType type, Gemm& gemm);

  /// Makes what products of up to `rows` rows need.
  void prepare(int rows, Gemm& gemm) const;

  /// From now on a token attends to the latest `tokens` only, and to those before them back to the begin of a block of
  /// 64; the rows of a span to what the first of them does. 0: to all.
  void set_window(int tokens) { window_ = tokens; }

  /// Puts the rows into the caches, which comes before attend(). scratch.cosines and .sines hold the rows' angles.
  /// @param x [rows, hidden] normalised input; @param layer of the caches that this layer's values go to
  void fill_cache(std::span<const AttentionSpan> spans, int layer, const float* x, int rows, Gemm& gemm,
                  AttentionScratch& scratch) const;

  /// Attends with rows that fill_cache() has seen, all of them or those that AttentionScratch::move_rows() has moved
  /// together. @param x as there; @param out [rows, hidden]
  void attend(std::span<const AttentionSpan> spans, int layer, const float* x, int rows, const Rope& rope,
              AttentionPath path, Gemm& gemm, AttentionScratch& scratch, float* out) const;

  // The parts of attend(), for ranks that share a sequence: each makes the queries of its rows, attends with all rows and
  // some of the heads, and projects its rows when it has all heads of them.

  /// Queries of rows that fill_cache() has seen, into scratch.q [rows, heads, qk_dim].
  void make_queries(std::span<const AttentionSpan> spans, const float* x, int rows, Gemm& gemm,
                    AttentionScratch& scratch) const;
  /// The plain form with some heads. @param queries of the span's rows, [span.count, heads.count, qk_dim]
  /// @param out [span.count, heads.count, v_dim]
  void attend_heads(const AttentionSpan& span, int layer, float scale, HeadRange heads, HeadRows<const float> queries,
                    HeadRows<float> out, Gemm& gemm, AttentionScratch& scratch) const;
  /// From scratch.heads_out [rows, heads, v_dim] to out [rows, hidden].
  void project_out(int rows, Gemm& gemm, const AttentionScratch& scratch, float* out) const;

 private:
  /// Position of the first token that the span's rows attend to, the begin of a block of queries and of a kept unit.
  int first_key(const AttentionSpan& span) const;
  /// How a span is attended, see above.
  enum class Form { plain, absorbed, kept };
  Form form_of(const AttentionSpan& span, AttentionPath path) const;
  void plain(const AttentionSpan& span, int layer, float scale, Gemm& gemm, AttentionScratch& scratch) const;
  void absorbed(std::span<const AttentionSpan> spans, int layer, float scale, Gemm& gemm,
                AttentionScratch& scratch) const;
  void attend_latents(const AttentionSpan& span, int layer, float scale, int row, Gemm& gemm,
                      AttentionScratch& scratch) const;
  void kept(std::span<const AttentionSpan> spans, int layer, float scale, Gemm& gemm, AttentionScratch& scratch) const;
  /// Expands what the spans' caches have not kept yet.
  void keep_missing(std::span<const AttentionSpan> spans, int layer, Gemm& gemm, AttentionScratch& scratch) const;

  ModelConfig config_;
  PackedMatrix down_, q_up_, output_;
  std::vector<float> q_norm_, kv_norm_;
  std::vector<PackedMatrix> kv_up_;     ///< per head [nope + v, kv_lora]
  std::vector<PackedMatrix> key_up_t_;  ///< per head [kv_lora, nope]
  std::vector<PackedMatrix> value_up_;  ///< per head [v, kv_lora]
  PackedMatrix all_up_;                 ///< [heads * (nope + v), kv_lora]; empty where nothing is kept
  KeptLayout kept_layout_;
  int window_ = 0;  ///< 0: a token attends to all before it
};

}  // namespace supernode::moe

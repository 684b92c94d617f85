#include "moe/operators/attention.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "moe/operators/step_plan.hpp"
#include "moe/products/kernels.hpp"
#include "moe/products/packing.hpp"

namespace supernode::moe {
namespace {

/// Queries of the plain path are taken in blocks that end at multiples of this position, so that what a query sees of
/// the arithmetic depends on its position only, not on where its chunk began.
constexpr int query_block = StepPlan::cut_unit;
/// oneDNN's sgemm on AVX2 works on tiles of 6 rows and sums differently in a tile with 1 to 3 rows. Such calls get
/// extra rows, whose results are thrown away: a query's result then does not depend on its neighbours.
constexpr int spare_rows = HeadRows<float>::spare_rows;

/// Tokens of a sequence in a decode step: the last one and one guess.
constexpr int decode_tokens = 2;

/// Tokens that are expanded together, to be kept.
constexpr int keep_block = 64;

/// Columns of queries that go over the cached rows together.
constexpr int query_lanes = 64;

int padded_lanes(int lanes) { return (lanes + latent_lane_unit - 1) / latent_lane_unit * latent_lane_unit; }

/// Queries [used_lanes, width] as columns [width, lanes]; zeros where there is none.
void transpose(const float* queries, const LatentProduct& p, float* columns) {
  const auto width = static_cast<std::size_t>(p.width), lanes = static_cast<std::size_t>(p.lanes);
  const auto used = static_cast<std::size_t>(p.used_lanes);
  for (std::size_t i = 0; i < width; ++i, columns += lanes) {
    for (std::size_t lane = 0; lane < used; ++lane) columns[lane] = queries[lane * width + i];
    std::fill(columns + used, columns + lanes, 0.0f);
  }
}

int whole_tiles(int rows) {
  const int rest = rows % 6;
  return rest >= 1 && rest <= 3 ? rows + 4 - rest : rows;
}

}  // namespace

AttentionScratch::AttentionScratch(const ModelConfig& c, int max_rows)
    : down_width(c.q_lora_rank + c.kv_width()),
      half_rope(c.rope_dim / 2),
      down(product(max_rows, down_width)),
      q_latent(product(max_rows, c.q_lora_rank)),
      q(product(max_rows + spare_rows, c.n_heads * c.qk_dim())),
      cosines(product(max_rows, half_rope)),
      sines(cosines.size()),
      heads_out(product(max_rows + spare_rows, c.n_heads * c.v_dim)),
      absorbed(product(max_rows, c.n_heads * c.kv_width())),
      context(product(max_rows, c.n_heads * c.kv_lora_rank)),
      head_in(product(max_rows, std::max(c.nope_dim, c.kv_lora_rank))),
      head_out(product(max_rows, std::max(c.v_dim, c.kv_lora_rank))) {
  // Spare rows take part in products; they must not hold signalling patterns or denormals.
  std::fill_n(q.data(), q.size(), 0.0f);
}

void AttentionScratch::move_rows(int from, int to, int count) {
  const auto move = [&](HugePageBuffer<float>& rows, int width) {
    std::memmove(rows.data() + product(to, width), rows.data() + product(from, width),
                 product(count, width) * sizeof(float));
  };
  move(down, down_width);
  move(cosines, half_rope);
  move(sines, half_rope);
}

Attention::Attention(Checkpoint& checkpoint, const std::string& prefix, ComputeType type, Gemm& gemm)
    : config_(checkpoint.config()) {
  const ModelConfig& c = config_;
  const auto named = [&](const char* name, int n_out) { return NamedMatrix{prefix + name + ".weight", n_out}; };
  const int q_width = c.n_heads * c.qk_dim();
  std::vector<NamedMatrix> down;
  if (c.q_lora_rank > 0) {
    down.push_back(named("q_a_proj", c.q_lora_rank));
    q_norm_ = checkpoint.read(prefix + "q_a_layernorm.weight", {c.q_lora_rank});
    q_up_ = pack_one(checkpoint, named("q_b_proj", q_width), c.q_lora_rank, type, gemm);
  } else {
    q_up_ = pack_one(checkpoint, named("q_proj", q_width), c.hidden_size, type, gemm);
  }
  down.push_back(named("kv_a_proj_with_mqa", c.kv_width()));
  down_ = pack_together(checkpoint, down, c.hidden_size, type, gemm);
  kv_norm_ = checkpoint.read(prefix + "kv_a_layernorm.weight", {c.kv_lora_rank});
  output_ = pack_one(checkpoint, named("o_proj", c.hidden_size), c.n_heads * c.v_dim, type, gemm);

  // The two ways use this matrix from different sides, so scales of its rows would make them differ.
  const ComputeType up_type = at_least_bf16(type);
  const int up = c.nope_dim + c.v_dim;
  const std::vector<float> kv_up = checkpoint.read(prefix + "kv_b_proj.weight", {c.n_heads * up, c.kv_lora_rank});
  std::vector<float> transposed(product(c.kv_lora_rank, c.nope_dim));
  for (int head = 0; head < c.n_heads; ++head) {
    const float* block = kv_up.data() + product(head * up, c.kv_lora_rank);
    kv_up_.push_back(gemm.pack({block, product(up, c.kv_lora_rank)}, up, c.kv_lora_rank, up_type));
    for (int i = 0; i < c.nope_dim; ++i)
      for (int j = 0; j < c.kv_lora_rank; ++j)
        transposed[product(j, c.nope_dim) + static_cast<std::size_t>(i)] =
            block[product(i, c.kv_lora_rank) + static_cast<std::size_t>(j)];
    key_up_t_.push_back(gemm.pack(transposed, c.kv_lora_rank, c.nope_dim, up_type));
    value_up_.push_back(gemm.pack({block + product(c.nope_dim, c.kv_lora_rank), product(c.v_dim, c.kv_lora_rank)},
                                  c.v_dim, c.kv_lora_rank, up_type));
  }
  if (!keeps_keys(c)) return;
  kept_layout_ = KeptLayout(c);
  all_up_ = gemm.pack(kv_up, c.n_heads * up, c.kv_lora_rank, up_type);
}

void Attention::prepare(int rows, Gemm& gemm) const {
  for (const PackedMatrix* matrix : {&down_, &q_up_, &output_, &key_up_t_.front(), &value_up_.front()})
    gemm.prepare(*matrix, rows);
  // Those of cached tokens, however few are new.
  gemm.prepare(kv_up_.front(), config_.max_positions);
  if (all_up_.n_out() > 0) gemm.prepare(all_up_, keep_block);
}

void Attention::attend(std::span<const AttentionSpan> spans, int layer, const float* x, int rows, const Rope& rope,
                       AttentionPath path, Gemm& gemm, AttentionScratch& scratch, float* out) const {
  make_queries(spans, x, rows, gemm, scratch);
  // Neighbours of the same form share their products with weights. In order: see the spare rows of plain().
  for (std::size_t first = 0, end = 0; first < spans.size(); first = end) {
    const Form form = form_of(spans[first], path);
    while (end < spans.size() && form_of(spans[end], path) == form) ++end;
    const auto these = spans.subspan(first, end - first);
    if (form == Form::kept) kept(these, layer, rope.softmax_scale(), gemm, scratch);
    if (form == Form::absorbed) absorbed(these, layer, rope.softmax_scale(), gemm, scratch);
    if (form == Form::plain)
      for (const AttentionSpan& span : these) plain(span, layer, rope.softmax_scale(), gemm, scratch);
  }
  project_out(rows, gemm, scratch, out);
}

void Attention::project_out(int rows, Gemm& gemm, const AttentionScratch& scratch, float* out) const {
  gemm.multiply(output_, scratch.heads_out.data(), rows, out);
}

void Attention::fill_cache(std::span<const AttentionSpan> spans, int layer, const float* x, int rows, Gemm& gemm,
                           AttentionScratch& scratch) const {
  const ModelConfig& c = config_;
  const auto q_lora = static_cast<std::size_t>(c.q_lora_rank), kv_lora = static_cast<std::size_t>(c.kv_lora_rank);
  const std::size_t rope_dim = static_cast<std::size_t>(c.rope_dim), half = rope_dim / 2;
  gemm.multiply(down_, x, rows, scratch.down.data(), &q_up_);
  for (const AttentionSpan& span : spans) {
    for (int i = 0; i < span.count; ++i) {
      const auto row = static_cast<std::size_t>(span.first_row + i);
      const float* kv = scratch.down.data() + row * static_cast<std::size_t>(scratch.down_width) + q_lora;
      float* cached = span.cache->row(layer, span.start + i);
      rms_norm(kv, kv_norm_.data(), static_cast<float>(c.rms_norm_eps), kv_lora, cached);
      std::memcpy(cached + kv_lora, kv + kv_lora, rope_dim * sizeof(float));
      rotate(cached + kv_lora, {scratch.cosines.data() + row * half, half}, {scratch.sines.data() + row * half, half});
    }
  }
}

void Attention::make_queries(std::span<const AttentionSpan> spans, const float* x, int rows, Gemm& gemm,
                             AttentionScratch& scratch) const {
  const ModelConfig& c = config_;
  const auto q_lora = static_cast<std::size_t>(c.q_lora_rank), half = static_cast<std::size_t>(c.rope_dim) / 2;
  const auto down_width = static_cast<std::size_t>(scratch.down_width);
  if (c.q_lora_rank > 0) {
    for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r)
      rms_norm(scratch.down.data() + r * down_width, q_norm_.data(), static_cast<float>(c.rms_norm_eps), q_lora,
               scratch.q_latent.data() + r * q_lora);
    gemm.multiply(q_up_, scratch.q_latent.data(), rows, scratch.q.data(),
                  all_up_.n_out() > 0 ? &all_up_ : &key_up_t_.front());
  } else {
    gemm.multiply(q_up_, x, rows, scratch.q.data());
  }
  for (const AttentionSpan& span : spans) {
    for (int i = 0; i < span.count; ++i) {
      const auto row = static_cast<std::size_t>(span.first_row + i);
      const std::span cosines(scratch.cosines.data() + row * half, half),
          sines(scratch.sines.data() + row * half, half);
      float* q = scratch.q.data() + row * product(c.n_heads, c.qk_dim()) + c.nope_dim;
      for (int head = 0; head < c.n_heads; ++head, q += c.qk_dim()) rotate(q, cosines, sines);
    }
  }
}

int Attention::first_key(const AttentionSpan& span) const {
  static_assert(query_block == KeptLayout::unit_tokens);
  return window_ == 0 ? 0 : std::max(0, span.deciding_start() + 1 - window_) / query_block * query_block;
}

Attention::Form Attention::form_of(const AttentionSpan& span, AttentionPath path) const {
  if (path != AttentionPath::automatic) return path == AttentionPath::absorbed ? Form::absorbed : Form::plain;
  // Decode always takes the same form, with a guess to verify or without: a token is then the same either way.
  const int count = span.deciding_count();
  if (count <= decode_tokens) return all_up_.n_out() > 0 ? Form::kept : Form::absorbed;
  // Multiplications of one head, without what both need.
  const ModelConfig& c = config_;
  const double queries = count, keys = span.deciding_start() + count - first_key(span), lora = c.kv_lora_rank;
  const double expand = lora * (c.nope_dim + c.v_dim);
  const double plain_cost = keys * expand + queries * keys * (c.nope_dim + c.v_dim);
  const double absorbed_cost = queries * expand + queries * keys * 2 * lora;
  return absorbed_cost < plain_cost ? Form::absorbed : Form::plain;
}

void Attention::plain(const AttentionSpan& span, int layer, float scale, Gemm& gemm, AttentionScratch& scratch) const {
  const int q_width = config_.n_heads * config_.qk_dim(), out_width = config_.n_heads * config_.v_dim;
  attend_heads(span, layer, scale, {0, config_.n_heads}, {scratch.q.data() + product(span.first_row, q_width), q_width},
               {scratch.heads_out.data() + product(span.first_row, out_width), out_width}, gemm, scratch);
}

void Attention::attend_heads(const AttentionSpan& span, int layer, float scale, HeadRange heads,
                             HeadRows<const float> queries_of, HeadRows<float> out, Gemm& gemm,
                             AttentionScratch& scratch) const {
  const ModelConfig& c = config_;
  // Positions count from the first key.
  const int first_token = first_key(span), start = span.start - first_token;
  const int keys = start + span.count, up = c.nope_dim + c.v_dim;
  const auto cache_stride = static_cast<std::ptrdiff_t>(span.cache->token_stride());
  scratch.latents.grow(product(keys, c.kv_lora_rank));
  scratch.keys_values.grow(product(keys, up));
  scratch.scores.grow(product(query_block + spare_rows, keys));

  for (int token = 0; token < keys; ++token)
    std::memcpy(scratch.latents.data() + product(token, c.kv_lora_rank), span.cache->row(layer, first_token + token),
                product(c.kv_lora_rank, sizeof(float)));
  for (int head = 0; head < heads.count; ++head) {
    gemm.multiply(kv_up_[static_cast<std::size_t>(heads.first + head)], scratch.latents.data(), keys,
                  scratch.keys_values.data());
    const float *key = scratch.keys_values.data(), *value = key + c.nope_dim;
    const float* rotated = span.cache->row(layer, first_token) + c.kv_lora_rank;
    for (int first = start; first < keys;) {
      const int end = std::min(keys, (first / query_block + 1) * query_block);
      const int queries = end - first, computed = whole_tiles(queries);
      const std::ptrdiff_t row = first - start;
      const float* q = queries_of.values + row * queries_of.stride + static_cast<std::ptrdiff_t>(head) * c.qk_dim();
      float* scores = scratch.scores.data();
      gemm.multiply_transposed(computed, end, c.nope_dim, 1, q, queries_of.stride, key, up, 0, scores, end);
      gemm.multiply_transposed(computed, end, c.rope_dim, 1, q + c.nope_dim, queries_of.stride, rotated, cache_stride,
                               1, scores, end);
      for (int i = 0; i < computed; ++i) {
        float* mine = scores + product(i, end);
        const int seen = std::min(first + i + 1, end);
        softmax(mine, scale, static_cast<std::size_t>(seen));
        std::fill(mine + seen, mine + end, 0.0f);
      }
      gemm.multiply_plain(computed, c.v_dim, end, scores, end, value, up,
                          out.values + row * out.stride + static_cast<std::ptrdiff_t>(head) * c.v_dim, out.stride);
      first = end;
    }
  }
}

void Attention::absorbed(std::span<const AttentionSpan> spans, int layer, float scale, Gemm& gemm,
                         AttentionScratch& scratch) const {
  const ModelConfig& c = config_;
  const std::size_t width = static_cast<std::size_t>(c.kv_width()), lora = static_cast<std::size_t>(c.kv_lora_rank);
  const std::size_t nope = static_cast<std::size_t>(c.nope_dim), rope_dim = static_cast<std::size_t>(c.rope_dim);
  const std::size_t heads = static_cast<std::size_t>(c.n_heads), v = static_cast<std::size_t>(c.v_dim);
  const int rows = spans.back().first_row + spans.back().count - spans.front().first_row;
  const auto n_rows = static_cast<std::size_t>(rows), first_row = static_cast<std::size_t>(spans.front().first_row);

  for (std::size_t head = 0; head < heads; ++head) {
    for (std::size_t i = 0; i < n_rows; ++i) {
      const float* q = scratch.q.data() + ((first_row + i) * heads + head) * (nope + rope_dim);
      std::memcpy(scratch.head_in.data() + i * nope, q, nope * sizeof(float));
      std::memcpy(scratch.absorbed.data() + (i * heads + head) * width + lora, q + nope, rope_dim * sizeof(float));
    }
    gemm.multiply(key_up_t_[head], scratch.head_in.data(), rows, scratch.head_out.data());
    for (std::size_t i = 0; i < n_rows; ++i)
      std::memcpy(scratch.absorbed.data() + (i * heads + head) * width, scratch.head_out.data() + i * lora,
                  lora * sizeof(float));
  }
  for (const AttentionSpan& span : spans)
    attend_latents(span, layer, scale, span.first_row - spans.front().first_row, gemm, scratch);
  for (std::size_t head = 0; head < heads; ++head) {
    for (std::size_t i = 0; i < n_rows; ++i)
      std::memcpy(scratch.head_in.data() + i * lora, scratch.context.data() + (i * heads + head) * lora,
                  lora * sizeof(float));
    gemm.multiply(value_up_[head], scratch.head_in.data(), rows, scratch.head_out.data(),
                  head + 1 < heads ? &value_up_[head + 1] : &output_);
    for (std::size_t i = 0; i < n_rows; ++i)
      std::memcpy(scratch.heads_out.data() + ((first_row + i) * heads + head) * v, scratch.head_out.data() + i * v,
                  v * sizeof(float));
  }
}

void Attention::attend_latents(const AttentionSpan& span, int layer, float scale, int row, Gemm& gemm,
                               AttentionScratch& scratch) const {
  const ModelConfig& c = config_;
  const int most = std::max(decode_tokens, query_lanes / c.n_heads);
  LatentProduct p;
  const int first_token = first_key(span), start = span.start - first_token;  // positions count from the first key
  p.keys = span.cache->row(layer, first_token);
  p.stride = static_cast<std::ptrdiff_t>(span.cache->token_stride());
  p.width = c.kv_width();
  p.lora = c.kv_lora_rank;
  for (int first = 0; first < span.count; first += most) {
    const int queries = std::min(most, span.count - first);
    p.n_keys = start + first + queries;
    p.used_lanes = queries * c.n_heads;
    p.lanes = padded_lanes(p.used_lanes);
    scratch.scores.grow(product(p.n_keys, p.lanes));
    scratch.columns.grow(product(c.kv_width() + 1, p.lanes));
    float* const sums = scratch.columns.data() + product(c.kv_width(), p.lanes);
    transpose(scratch.absorbed.data() + product(row + first, c.n_heads * c.kv_width()), p, scratch.columns.data());
    gemm.score_latents(p, scratch.columns.data(), scratch.scores.data());
    // A query does not see the tokens after it. Their weight is zero, which adds nothing to the last bit.
    for (int query = 0; query + 1 < queries; ++query)
      for (int key = start + first + query + 1; key < p.n_keys; ++key)
        std::fill_n(scratch.scores.data() + product(key, p.lanes) + query * c.n_heads, c.n_heads,
                    -std::numeric_limits<float>::infinity());
    exponentials(scratch.scores.data(), p.n_keys, p.lanes, scale, sums);
    float* const context = scratch.context.data() + product(row + first, c.n_heads * c.kv_lora_rank);
    gemm.attend_latents(p, scratch.scores.data(), context);
    for (int lane = 0; lane < p.used_lanes; ++lane)
      scale_by(1.0f / sums[lane], static_cast<std::size_t>(c.kv_lora_rank), context + product(lane, c.kv_lora_rank));
  }
}

void Attention::kept(std::span<const AttentionSpan> spans, int layer, float scale, Gemm& gemm,
                     AttentionScratch& scratch) const {
  keep_missing(spans, layer, gemm, scratch);
  const ModelConfig& c = config_;
  for (const AttentionSpan& span : spans) {
    KeptProduct p;
    p.layout = kept_layout_;
    const int first_token = first_key(span);
    p.stride = static_cast<std::ptrdiff_t>(span.cache->kept_stride());
    p.units = span.cache->kept_units(layer) + first_token / KeptLayout::unit_tokens * p.stride;
    p.n_keys = span.start + span.count - first_token;
    p.rows = span.count;
    scratch.scores.grow(p.scratch_floats());
    gemm.attend_kept(p, scale, scratch.q.data() + product(span.first_row, c.n_heads * c.qk_dim()),
                     scratch.scores.data(), scratch.heads_out.data() + product(span.first_row, c.n_heads * c.v_dim));
  }
}

void Attention::keep_missing(std::span<const AttentionSpan> spans, int layer, Gemm& gemm,
                             AttentionScratch& scratch) const {
  const ModelConfig& c = config_;
  const auto lora = static_cast<std::size_t>(c.kv_lora_rank);
  const int width = c.n_heads * (c.nope_dim + c.v_dim);
  struct Token {
    KvCache* cache;
    int position;
  };
  std::array<Token, keep_block> waiting;
  int count = 0;
  scratch.latents.grow(product(keep_block, c.kv_lora_rank));
  scratch.keys_values.grow(product(keep_block, width));
  const auto expand = [&] {
    for (int i = 0; i < count; ++i)
      std::copy_n(waiting[static_cast<std::size_t>(i)].cache->row(layer, waiting[static_cast<std::size_t>(i)].position),
                  lora, scratch.latents.data() + static_cast<std::size_t>(i) * lora);
    gemm.multiply(all_up_, scratch.latents.data(), count, scratch.keys_values.data(), &output_);
    for (int i = 0; i < count; ++i) {
      const Token& token = waiting[static_cast<std::size_t>(i)];
      float* const unit =
          token.cache->kept_units(layer) +
          static_cast<std::size_t>(token.position / KvCache::kept_unit_tokens) * token.cache->kept_stride();
      keep_token(kept_layout_, unit, token.position % KvCache::kept_unit_tokens,
                 scratch.keys_values.data() + product(i, width), token.cache->row(layer, token.position) + lora);
    }
    count = 0;
  };
  for (const AttentionSpan& span : spans) {
    const int end = span.start + span.count;
    int token = span.cache->kept(layer);
    span.cache->keep(layer, end);
    for (; token < end; ++token) {
      waiting[static_cast<std::size_t>(count++)] = {span.cache, token};
      if (count == keep_block) expand();
    }
  }
  if (count > 0) expand();
}

}  // namespace supernode::moe

// Keys and values that decode keeps: against plain loops, and what a query's bits depend on.
#include "moe/products/kept_keys.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "tests/support/catch.hpp"

namespace supernode::moe {
namespace {

ModelConfig sizes(int heads, int nope, int rope, int v) {
  ModelConfig c;
  c.n_layers = 1;
  c.n_heads = heads;
  c.nope_dim = nope;
  c.rope_dim = rope;
  c.v_dim = v;
  return c;
}

/// Random tokens in a cache, and the plain arithmetic over them.
struct Kept {
  Kept(const ModelConfig& config, int tokens)
      : c(config), layout(config), n_keys(tokens), cache(1, config.rope_dim, layout.unit_floats()) {
    std::mt19937 random(static_cast<unsigned>(tokens));
    std::uniform_real_distribution<float> uniform(-1, 1);
    const auto fill = [&](std::vector<float>& values, int count) {
      values.resize(static_cast<std::size_t>(count));
      std::generate(values.begin(), values.end(), [&] { return uniform(random); });
    };
    fill(expanded, n_keys * width());
    fill(rotated, n_keys * c.rope_dim);
    fill(queries, 2 * c.n_heads * layout.qk());
    cache.extend(n_keys);
    for (int token = 0; token < n_keys; ++token) {
      cache.keep(0, token + 1);
      float* const unit =
          cache.kept_units(0) + static_cast<std::size_t>(token / KeptLayout::unit_tokens) * cache.kept_stride();
      keep_token(layout, unit, token % KeptLayout::unit_tokens, expanded.data() + token * width(),
                 rotated.data() + token * c.rope_dim);
    }
  }

  int width() const { return c.n_heads * (c.nope_dim + c.v_dim); }

  /// The last `rows` of the first `keys` tokens attend; row r takes query first_query + r.
  std::vector<float> attend(int keys, int rows, int first_query, float scale) {
    KeptProduct p;
    p.layout = layout;
    p.units = cache.kept_units(0);
    p.stride = static_cast<std::ptrdiff_t>(cache.kept_stride());
    p.n_keys = keys;
    p.rows = rows;
    std::vector<float> scratch(p.scratch_floats()), out(static_cast<std::size_t>(rows * c.n_heads * c.v_dim));
    attend_kept(p, scale, queries.data() + first_query * c.n_heads * layout.qk(), scratch.data(), out.data());
    return out;
  }

  std::vector<double> plain(int keys, int query, double scale) const {
    std::vector<double> out;
    for (int head = 0; head < c.n_heads; ++head) {
      const float* const q = queries.data() + (query * c.n_heads + head) * layout.qk();
      std::vector<double> weights;
      double sum = 0;
      for (int token = 0; token < keys; ++token) {
        const float* const key = expanded.data() + token * width() + head * (c.nope_dim + c.v_dim);
        double score = 0;
        for (int i = 0; i < c.nope_dim; ++i) score += static_cast<double>(q[i]) * key[i];
        for (int i = 0; i < c.rope_dim; ++i)
          score += static_cast<double>(q[c.nope_dim + i]) * rotated[static_cast<std::size_t>(token * c.rope_dim + i)];
        weights.push_back(std::exp(score * scale));
        sum += weights.back();
      }
      for (int i = 0; i < c.v_dim; ++i) {
        double value = 0;
        for (int token = 0; token < keys; ++token)
          value += weights[static_cast<std::size_t>(token)] *
                   expanded[static_cast<std::size_t>(token * width() + head * (c.nope_dim + c.v_dim) + c.nope_dim + i)];
        out.push_back(value / sum);
      }
    }
    return out;
  }

  ModelConfig c;
  KeptLayout layout;
  int n_keys;
  KvCache cache;
  std::vector<float> expanded, rotated, queries;
};

TEST_CASE("kept keys: attention is that of plain loops, for every size of heads and numbers of tokens") {
  for (const ModelConfig& c : {sizes(8, 16, 16, 16), sizes(1, 1, 2, 1), sizes(5, 7, 6, 13), sizes(2, 24, 8, 40)})
    for (const int tokens : {1, 2, 15, 16, 17, 63, 64, 65, 128, 200}) {
      INFO(c.n_heads << " heads of " << c.v_dim << ", " << tokens << " tokens");
      Kept kept(c, tokens);
      for (const int rows : {1, 2}) {
        if (rows > tokens) continue;
        for (const double scale : {0.2, 30.0}) {  // 30: weights from 1 to nothing
          const std::vector<float> out = kept.attend(tokens, rows, 0, static_cast<float>(scale));
          for (int row = 0; row < rows; ++row) {
            const std::vector<double> expected = kept.plain(tokens - rows + row + 1, row, scale);
            for (std::size_t i = 0; i < expected.size(); ++i)
              CHECK(out[static_cast<std::size_t>(row) * expected.size() + i] ==
                    Approx(expected[i]).margin(scale < 1 ? 2e-6 : 1e-4));
          }
        }
      }
    }
}

TEST_CASE("kept keys: a query's bits depend neither on the one after it nor on later tokens") {
  Kept kept(sizes(3, 16, 8, 16), 130);
  for (const int tokens : {2, 16, 17, 64, 65, 129, 130}) {
    const std::vector<float> both = kept.attend(tokens, 2, 0, 0.3f), first = kept.attend(tokens - 1, 1, 0, 0.3f),
                             second = kept.attend(tokens, 1, 1, 0.3f);
    CHECK(std::equal(first.begin(), first.end(), both.begin()));
    CHECK(std::equal(second.begin(), second.end(), both.begin() + static_cast<std::ptrdiff_t>(first.size())));
  }
}

TEST_CASE("kept keys: a cache forgets what it has expanded of tokens that go or change") {
  Kept kept(sizes(2, 4, 2, 4), 100);
  CHECK(kept.cache.kept(0) == 100);
  std::vector<std::byte> token(kept.cache.bytes_per_token());
  kept.cache.truncate(90);
  CHECK(kept.cache.kept(0) == 90);
  kept.cache.export_tokens(70, 1, token);
  kept.cache.import_tokens(70, 1, token);
  CHECK(kept.cache.kept(0) == 70);
  kept.cache.keep(0, 80);
  CHECK(kept.cache.kept(0) == 80);
}

TEST_CASE("kept keys: for small models only") {
  ModelConfig small = sizes(8, 16, 16, 16);
  small.n_layers = 4;
  CHECK(keeps_keys(small));
  ModelConfig large = sizes(128, 128, 64, 128);
  large.n_layers = 61;
  CHECK_FALSE(keeps_keys(large));
}

}  // namespace
}  // namespace supernode::moe

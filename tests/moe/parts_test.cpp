// The pure parts of the model: gate, rotary embedding, cache, sampler, tokenizer, products.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "moe/kv_cache.hpp"
#include "moe/operators/gate.hpp"
#include "moe/operators/rope.hpp"
#include "moe/operators/step_plan.hpp"
#include "moe/products/gemm.hpp"
#include "moe/products/kernels.hpp"
#include "moe/products/latent_products.hpp"
#include "moe/sampler.hpp"
#include "moe/sequence_state.hpp"
#include "moe/text/tokenizer.hpp"
#include "tests/support/catch.hpp"

namespace supernode::moe {
namespace {

ModelConfig gate_config(GateScoring scoring, GateMethod method) {
  ModelConfig c;
  c.n_routed_experts = 8;
  c.topk = 3;
  c.n_groups = 4;
  c.topk_groups = 2;
  c.scoring = scoring;
  c.method = method;
  c.normalise_weights = false;
  return c;
}

struct Choice {
  std::vector<std::int32_t> ids;
  std::vector<float> weights;
};

Choice choose(const ModelConfig& c, const std::vector<float>& logits, const std::vector<float>& bias = {}) {
  Choice choice{std::vector<std::int32_t>(static_cast<std::size_t>(c.topk)),
                std::vector<float>(static_cast<std::size_t>(c.topk))};
  Gate(c).select(logits, bias, choice.ids, choice.weights);
  return choice;
}

std::vector<float> random_values(std::size_t n, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& value : values) value = normal(generator);
  return values;
}

}  // namespace

TEST_CASE("gate: the bias moves the choice, not the weights; two best make a group") {
  ModelConfig c = gate_config(GateScoring::sigmoid, GateMethod::noaux_tc);
  // Groups {0,1} {2,3} {4,5} {6,7}. Expert 0 is the best of all, but its group's two best are worth less than others'.
  const std::vector<float> logits{2, -9, 1, 1, 0.9f, 0.8f, -1, -1}, none(8, 0.0f);
  CHECK(choose(c, logits, none).ids == std::vector<std::int32_t>{2, 3, 4});
  c.method = GateMethod::group_limited_greedy;  // the best one makes a group
  CHECK(choose(c, logits).ids == std::vector<std::int32_t>{0, 2, 3});
  c.method = GateMethod::greedy;
  CHECK(choose(c, logits).ids == std::vector<std::int32_t>{0, 2, 3});

  c.method = GateMethod::noaux_tc;
  const std::vector<float> bias{0, 0, 0, 0, 0, 0, 0.9f, 0.8f};
  const Choice moved = choose(c, logits, bias);
  CHECK(moved.ids == std::vector<std::int32_t>{6, 7, 2});
  CHECK(moved.weights[0] == Approx(1 / (1 + std::exp(1.0))));

  c.normalise_weights = true;
  c.routed_scaling = 2.5;
  const Choice scaled = choose(c, logits, bias);
  CHECK(std::accumulate(scaled.weights.begin(), scaled.weights.end(), 0.0f) == Approx(2.5));
}

TEST_CASE("gate: softmax scores, ties and NaN") {
  ModelConfig c = gate_config(GateScoring::softmax, GateMethod::greedy);
  c.topk = 8;
  const Choice all = choose(c, {3, 1, 2, 0, 0, 0, 0, 0});
  CHECK(all.ids == std::vector<std::int32_t>{0, 2, 1, 3, 4, 5, 6, 7});
  CHECK(std::accumulate(all.weights.begin(), all.weights.end(), 0.0f) == Approx(1));
  CHECK(all.weights[0] / all.weights[1] == Approx(std::exp(1.0)));

  c = gate_config(GateScoring::sigmoid, GateMethod::noaux_tc);
  const Choice odd = choose(c, std::vector<float>(8, std::nanf("")), std::vector<float>(8, 0.0f));
  CHECK(std::set<std::int32_t>(odd.ids.begin(), odd.ids.end()).size() == 3);

  c = gate_config(GateScoring::softmax, GateMethod::greedy);
  const float nan = std::nanf(""), infinite = std::numeric_limits<float>::infinity();
  const Choice numbers = choose(c, {nan, 1, nan, 2, -1, nan, 0, -2});
  CHECK(numbers.ids == std::vector<std::int32_t>{3, 1, 6});
  CHECK(numbers.weights[0] / numbers.weights[1] == Approx(std::exp(1.0)));
  CHECK(choose(c, {0, infinite, nan, 2, 0, 0, 0, 0}).ids[0] == 1);
}

TEST_CASE("gate: the best of many, ties by index") {
  std::mt19937 random(3);
  for (int n = 1; n <= 70; ++n) {
    ModelConfig c = gate_config(GateScoring::softmax, GateMethod::greedy);
    c.n_routed_experts = n;
    c.n_groups = 1;
    c.topk = std::min(n, 1 + n % 9);
    std::vector<float> logits(static_cast<std::size_t>(n));
    for (float& logit : logits) logit = static_cast<float>(random() % 6);
    std::vector<std::int32_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
      return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
    });
    order.resize(static_cast<std::size_t>(c.topk));
    CHECK(choose(c, logits).ids == order);
  }
}

TEST_CASE("rope: rotations keep lengths, scores depend on distance only") {
  ModelConfig c;
  c.nope_dim = 16;
  c.rope_dim = 8;
  const Rope rope(c);
  CHECK(rope.softmax_scale() == Approx(1 / std::sqrt(24.0)));
  const auto score = [&](int query_at, int key_at) {
    std::vector<float> q = random_values(8, 1), k = random_values(8, 2), cosines(4), sines(4);
    rope.angles(query_at, cosines, sines);
    rotate(q.data(), cosines, sines);
    rope.angles(key_at, cosines, sines);
    rotate(k.data(), cosines, sines);
    return std::inner_product(q.begin(), q.end(), k.begin(), 0.0);
  };
  CHECK(score(7, 3) == Approx(score(104, 100)).epsilon(1e-4));
  CHECK(score(7, 3) != Approx(score(8, 3)).epsilon(1e-3));
}

TEST_CASE("rope: YaRN stretches slow pairs by the factor and leaves fast ones") {
  ModelConfig c;
  c.nope_dim = 0;
  c.rope_dim = 64;
  const Rope plain(c);
  c.yarn = YarnConfig{40, 4096, 32, 1, 1, 1};
  const Rope yarn(c);
  std::vector<float> cosines(32), sines(32), yarn_cosines(32), yarn_sines(32);
  plain.angles(1, cosines, sines);
  yarn.angles(1, yarn_cosines, yarn_sines);
  CHECK(yarn_sines[0] == Approx(sines[0]));
  CHECK(yarn_sines[31] == Approx(sines[31] / 40).epsilon(1e-3));
  const double mscale = 0.1 * std::log(40.0) + 1;
  CHECK(yarn.softmax_scale() == Approx(mscale * mscale / 8));
}

TEST_CASE("cache: a range of tokens is one byte string") {
  KvCache cache(2, 3);
  CHECK(cache.bytes_per_token() == 24);
  cache.extend(5);
  for (int token = 0; token < 5; ++token)
    for (int layer = 0; layer < 2; ++layer)
      for (int i = 0; i < 3; ++i) cache.row(layer, token)[i] = static_cast<float>(100 * token + 10 * layer + i);
  std::vector<std::byte> bytes(2 * cache.bytes_per_token());
  cache.export_tokens(2, 2, bytes);
  std::vector<float> values(12);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  CHECK(values == std::vector<float>{200, 201, 202, 210, 211, 212, 300, 301, 302, 310, 311, 312});

  KvCache other(2, 3);
  other.reserve(64);
  other.import_tokens(0, 2, bytes);
  other.import_tokens(1, 2, bytes);  // overlaps and grows
  CHECK(other.length() == 3);
  CHECK(other.row(1, 0)[2] == 212);
  CHECK(other.row(0, 1)[0] == 200);
  CHECK(other.row(1, 2)[1] == 311);
  other.truncate(1);
  CHECK(other.length() == 1);
  other.extend(1000);  // moves to larger memory; the first token survives
  CHECK(other.row(1, 0)[2] == 212);
}

TEST_CASE("sampler: greedy, and draws that depend on seed, request and position only") {
  CHECK(most_likely(std::vector<float>{1, 3, 3, 2}) == 1);
  CHECK(most_likely(std::vector<float>{std::nanf(""), -1, std::nanf(""), 2}) == 3);
  std::mt19937 random(3);
  for (std::size_t n = 1; n <= 100; ++n) {
    std::vector<float> values(n);
    for (float& value : values) value = random() % 8 == 0 ? std::nanf("") : static_cast<float>(random() % 10) - 5;
    values[random() % n] = -7;
    std::size_t best = n;
    for (std::size_t i = 0; i < n; ++i)
      if (!std::isnan(values[i]) && (best == n || values[i] > values[best])) best = i;
    CHECK(most_likely(values) == static_cast<std::int32_t>(best));
  }
  // An infinite logit takes everything; no draw becomes a NaN.
  std::vector<float> endless(5, 1.0f);
  endless[2] = std::numeric_limits<float>::infinity();
  for (int position = 0; position < 20; ++position) CHECK(sample(endless, {1.0, 0.9, 7}, 3, position) == 2);

  std::vector<float> logits(16);
  for (std::size_t i = 0; i < 16; ++i) logits[i] = std::log(static_cast<float>(i == 5 ? 85 : 1));
  const SamplerOptions hot{1.0, 1.0, 7};
  std::set<std::int32_t> seen;
  int fives = 0;
  for (int position = 0; position < 2000; ++position) {
    const std::int32_t token = sample(logits, hot, 3, position);
    CHECK(token == sample(logits, hot, 3, position));
    seen.insert(token);
    fives += token == 5 ? 1 : 0;
  }
  CHECK(seen.size() == 16);
  CHECK(fives == Approx(1700).margin(80));
  // The likeliest token alone holds 0.85; a set of 0.8 is that token.
  for (int position = 0; position < 100; ++position) CHECK(sample(logits, {1.0, 0.8, 7}, 3, position) == 5);
  CHECK(sample(logits, {0, 1, 7}, 0, 0) == 5);
}

TEST_CASE("tokenizer: bytes there and back") {
  ModelConfig c;
  CHECK_THROWS_WITH(Tokenizer(c).encode("x"), Catch::Contains("give token ids"));
  CHECK(Tokenizer(c).decode(std::vector<std::int32_t>{1, 2}).empty());
  c.tokenizer = "bytes";
  const Tokenizer tokenizer(c);
  const std::string text("a\xff\0b", 4);
  CHECK(tokenizer.encode(text) == std::vector<std::int32_t>{97, 255, 0, 98});
  CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
}

TEST_CASE("products: right for every number of rows, and a row's bits do not depend on its neighbours") {
  Gemm gemm(1);
  for (const auto& [n_out, n_in] :
       {std::pair{96, 24}, {13, 20}, {7, 5}, {1, 64}, {256, 128}, {200, 512}, {320, 2048}}) {
    const auto out = static_cast<std::size_t>(n_out), in = static_cast<std::size_t>(n_in);
    constexpr std::size_t most = 300;
    const std::vector<float> weights = random_values(out * in, 3), x = random_values(most * in, 4);
    std::vector<double> exact(most * out);
    for (std::size_t r = 0; r < most; ++r)
      for (std::size_t o = 0; o < out; ++o)
        for (std::size_t i = 0; i < in; ++i)
          exact[r * out + o] += static_cast<double>(x[r * in + i]) * weights[o * in + i];
    // Errors of normal values, relative to the spread of a sum of n_in products.
    for (const auto& [type, tolerance] :
         {std::pair{ComputeType::f32, 1e-5}, {ComputeType::bf16, 0.02}, {ComputeType::int8, 0.15}}) {
      INFO(name_of(type) << ", " << n_out << " x " << n_in);
      const PackedMatrix packed = gemm.pack(weights, n_out, n_in, type);
      const std::size_t padded_out = (out + 63) / 64 * 64;  // the largest block of outputs of any layout
      if (in * out > 10000)
        CHECK(packed.bytes() < (type == ComputeType::f32 ? 5 : type == ComputeType::bf16 ? 3 : 2) * in * padded_out);
      gemm.prepare(packed, 64);
      std::vector<float> all(most * out);
      gemm.multiply(packed, x.data(), most, all.data());
      double worst = 0;
      for (std::size_t i = 0; i < all.size(); ++i) worst = std::max(worst, std::abs(exact[i] - all[i]));
      CHECK(worst < tolerance * std::sqrt(static_cast<double>(n_in)));
      for (const int rows : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 17, 31, 32, 33, 50, 97, 100, 257}) {
        std::vector<float> some(static_cast<std::size_t>(rows) * out, -1);
        gemm.multiply(packed, x.data(), rows, some.data());
        INFO("rows " << rows);
        CHECK(std::equal(some.begin(), some.end(), all.begin()));
      }
    }
  }
}

TEST_CASE("products: rows that are quantised already are used as they are") {
  Gemm gemm(1);
  const std::vector<float> weights{1, -1, 0.5f, 127, 0, -127};  // [2, 3]
  const PackedMatrix packed = gemm.pack(weights, 2, 3, ComputeType::int8);
  const std::vector<std::int8_t> x{127, 0, -128, 1, 2, 3};
  const std::vector<float> scales{0.5f, 2};
  std::vector<float> y(4);
  gemm.multiply_quantised(packed, x.data(), scales.data(), 2, y.data());
  const double expected[] = {0.5 * (127 - 64), 0.5 * 127 * 255, 2 * (1 - 2 + 1.5), 2 * 127 * (1 - 3)};
  for (std::size_t i = 0; i < 4; ++i) CHECK(y[i] == Approx(expected[i]).epsilon(0.03).margin(0.1));
}

TEST_CASE("products: f32 weights that are bf16 give the bits that f32 gives, in half the memory") {
  Gemm gemm(1);
  constexpr int n_out = 40, n_in = 48, rows = 7;
  std::vector<float> weights = random_values(n_out * n_in, 7);
  const std::vector<float> x = random_values(rows * n_in, 8);
  for (float& weight : weights) weight = std::bit_cast<float>(std::bit_cast<std::uint32_t>(weight) & 0xffff0000u);
  const PackedMatrix packed = gemm.pack(weights, n_out, n_in, ComputeType::f32);
  weights.push_back(1.001f);  // one more output, so that the others are multiplied as f32
  weights.resize((n_out + 1) * n_in);
  const PackedMatrix other = gemm.pack(weights, n_out + 1, n_in, ComputeType::f32);
  CHECK(packed.bytes() < other.bytes());
  std::vector<float> y(rows * n_out), expected(rows * (n_out + 1));
  gemm.multiply(packed, x.data(), rows, y.data());
  gemm.multiply(other, x.data(), rows, expected.data());
  for (std::size_t r = 0; r < rows; ++r)
    CHECK(std::equal(y.begin() + static_cast<std::ptrdiff_t>(r * n_out),
                     y.begin() + static_cast<std::ptrdiff_t>((r + 1) * n_out),
                     expected.begin() + static_cast<std::ptrdiff_t>(r * (n_out + 1))));
}

TEST_CASE("products with cached latents: right, and a query's bits do not depend on the others or on later tokens") {
  for (const auto& [keys, heads, lora, rope] :
       {std::array{1, 1, 1, 2}, {5, 3, 20, 4}, {47, 8, 64, 16}, {49, 16, 40, 8}, {200, 5, 27, 6}}) {
    INFO(keys << " keys, " << heads << " heads, " << lora << " + " << rope);
    const auto n_keys = static_cast<std::size_t>(keys), width = static_cast<std::size_t>(lora + rope);
    const std::size_t stride = width + 3, n_heads = static_cast<std::size_t>(heads), lanes = (n_heads + 7) / 8 * 8;
    const std::vector<float> cached = random_values(n_keys * stride, 9), columns = random_values(width * 2 * lanes, 10);
    LatentProduct p{cached.data(),
                    static_cast<std::ptrdiff_t>(stride),
                    keys,
                    lora + rope,
                    lora,
                    static_cast<int>(2 * lanes),
                    static_cast<int>(2 * lanes)};
    std::vector<float> scores(n_keys * 2 * lanes), sums(2 * lanes), context(2 * lanes * static_cast<std::size_t>(lora));
    latent_scores(p, columns.data(), scores.data());
    std::vector<double> plain(n_keys);
    double total = 0, top = -1e30;
    const std::size_t lane = n_heads - 1;
    for (std::size_t key = 0; key < n_keys; ++key) {
      for (std::size_t i = 0; i < width; ++i)
        plain[key] += static_cast<double>(cached[key * stride + i]) * columns[i * 2 * lanes + lane];
      CHECK(scores[key * 2 * lanes + lane] == Approx(plain[key]).margin(1e-4));
      top = std::max(top, plain[key]);
    }
    const std::vector<float> raw = scores;
    exponentials(scores.data(), keys, p.lanes, 0.3f, sums.data());
    for (double& score : plain) total += score = std::exp((score - top) * 0.3);
    CHECK(sums[lane] == Approx(total).epsilon(1e-5));
    latent_context(p, scores.data(), context.data());
    for (std::size_t c = 0; c < static_cast<std::size_t>(lora); ++c) {
      double expected = 0;
      for (std::size_t key = 0; key < n_keys; ++key) expected += plain[key] * cached[key * stride + c];
      CHECK(context[lane * static_cast<std::size_t>(lora) + c] == Approx(expected).margin(2e-4));
    }

    // The first half of the columns by itself, over fewer keys: the same bits.
    std::vector<float> half(width * lanes);
    for (std::size_t i = 0; i < width; ++i)
      std::copy_n(columns.begin() + static_cast<std::ptrdiff_t>(i * 2 * lanes), lanes,
                  half.begin() + static_cast<std::ptrdiff_t>(i * lanes));
    p.lanes = static_cast<int>(lanes);
    p.used_lanes = heads;
    p.n_keys = (keys + 1) / 2;
    std::vector<float> fewer(n_keys * lanes);
    latent_scores(p, half.data(), fewer.data());
    for (std::size_t key = 0; key < static_cast<std::size_t>(p.n_keys); ++key)
      for (std::size_t l = 0; l < lanes; ++l) CHECK(fewer[key * lanes + l] == raw[key * 2 * lanes + l]);
    p.n_keys = keys;
    for (std::size_t key = 0; key < n_keys; ++key)
      std::copy_n(scores.begin() + static_cast<std::ptrdiff_t>(key * 2 * lanes), lanes,
                  fewer.begin() + static_cast<std::ptrdiff_t>(key * lanes));
    std::vector<float> alone(n_heads * static_cast<std::size_t>(lora));
    latent_context(p, fewer.data(), alone.data());
    CHECK(std::equal(alone.begin(), alone.end(), context.begin()));
  }
}

TEST_CASE("products: recorded calls can be repeated") {
  Gemm gemm(1);
  const std::vector<float> weights = random_values(64 * 32, 1), x = random_values(5 * 32, 2);
  const PackedMatrix packed = gemm.pack(weights, 64, 32, ComputeType::f32);
  std::vector<float> y(5 * 64), scores(5 * 5);
  gemm.start_recording();
  gemm.multiply(packed, x.data(), 5, y.data());
  gemm.multiply_transposed(5, 5, 32, 1, x.data(), 32, x.data(), 32, 0, scores.data(), 5);
  gemm.stop_recording();
  const std::map<std::string, double> operations = gemm.recorded_operations();
  CHECK(operations.size() == 2);
  CHECK(operations.at("sgemm") == 2.0 * 5 * 32 * 5);
  for (const auto& [name, count] : operations) CHECK(count == 2.0 * 5 * 32 * (name == "sgemm" ? 5 : 64));
  const std::vector<float> first = y;
  std::fill(y.begin(), y.end(), 0.0f);
  CHECK(gemm.replay() > 0);
  CHECK(y == first);
  CHECK(gemm.replay_by_library() > 0);
}

TEST_CASE("kernels: against plain loops, at lengths around the vector width") {
  for (const std::size_t n : {1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 33, 100}) {
    INFO("n " << n);
    const std::vector<float> x = random_values(2 * n, 5), w = random_values(n, 6);
    std::vector<float> y(n);
    double squares = 0, sum = 0;
    for (std::size_t i = 0; i < n; ++i) squares += static_cast<double>(x[i]) * x[i];
    const double scale = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-6);
    rms_norm(x.data(), w.data(), 1e-6f, n, y.data());
    for (std::size_t i = 0; i < n; ++i) CHECK(y[i] == Approx(x[i] * scale * w[i]).margin(1e-6));

    silu_gate(x.data(), n, y.data());
    for (std::size_t i = 0; i < n; ++i) CHECK(y[i] == Approx(x[i] / (1 + std::exp(-x[i])) * x[n + i]).margin(1e-6));

    y.assign(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(n));
    softmax(y.data(), 0.5f, n);
    for (std::size_t i = 0; i < n; ++i) sum += std::exp(0.5 * x[i]);
    for (std::size_t i = 0; i < n; ++i) CHECK(y[i] == Approx(std::exp(0.5 * x[i]) / sum).margin(1e-6));

    y.assign(w.begin(), w.end());
    add_scaled(2, x.data(), n, y.data());
    add(x.data(), n, y.data());
    for (std::size_t i = 0; i < n; ++i) CHECK(y[i] == Approx(w[i] + 3 * x[i]).margin(1e-6));
  }
}

TEST_CASE("a step is cut into slices; every token is in one, in order") {
  KvCache a, b;
  const std::vector<std::int32_t> tokens(10);
  const SequenceChunk chunks[] = {{&a, std::span(tokens).first(7), false}, {&b, std::span(tokens).first(5), true}};
  StepPlan plan;
  plan.build(chunks, 4);
  REQUIRE(plan.slices().size() == 3);
  CHECK(plan.logit_rows() == 6);
  const auto& second = plan.slice(1).pieces;
  REQUIRE(second.size() == 2);
  CHECK((second[0].chunk == 0 && second[0].first == 4 && second[0].count == 3 && second[0].logit_count == 1));
  CHECK((second[1].chunk == 1 && second[1].first == 0 && second[1].count == 1 && second[1].first_logit_row == 1));
  CHECK(plan.slice(0).pieces[0].logit_count == 0);
  CHECK(plan.slice(2).pieces[0].logit_count == 4);
  CHECK(plan.slice(3).pieces.empty());
  plan.build({}, 4);
  CHECK(plan.slices().empty());
}

TEST_CASE("microbatches halve a slice at ends of chunks and at every 64th position") {
  const auto halves = [](std::vector<int> cached, std::vector<int> counts, int max_tokens) {
    std::vector<KvCache> caches;
    std::vector<std::vector<std::int32_t>> tokens;
    std::vector<SequenceChunk> chunks;
    for (std::size_t i = 0; i < counts.size(); ++i) {
      caches.emplace_back(1, 1).extend(cached[i]);
      tokens.emplace_back(counts[i]);
    }
    for (std::size_t i = 0; i < counts.size(); ++i) chunks.push_back({&caches[i], tokens[i]});
    StepPlan plan;
    plan.build(chunks, max_tokens, 2);
    std::vector<std::pair<int, int>> rows;
    int logits = 0;
    for (const StepPlan::Slice& slice : plan.slices()) {
      int count[2] = {};
      for (const int m : {0, 1})
        for (const StepPlan::Piece& piece : slice.microbatch(m)) {
          count[m] += piece.count;
          CHECK(piece.first_logit_row == logits);
          logits += piece.logit_count;
          CHECK(piece.whole_first <= piece.first);
          CHECK(piece.first + piece.count <= piece.whole_first + piece.whole_count);
        }
      CHECK(std::max(count[0], count[1]) <= StepPlan::most_rows(max_tokens, 2));
      rows.emplace_back(count[0], count[1]);
    }
    CHECK(logits == static_cast<int>(counts.size()));
    CHECK(logits == plan.logit_rows());
    return rows;
  };
  using Rows = std::vector<std::pair<int, int>>;
  CHECK(halves({5}, {1}, 64) == Rows{{1, 0}});
  CHECK(halves({5}, {2}, 64) == Rows{{2, 0}});  // a token and its guess stay together
  CHECK(halves({5, 6}, {2, 1}, 64) == Rows{{2, 1}});
  CHECK(halves({5, 6}, {1, 2}, 64) == Rows{{1, 2}});
  CHECK(halves({1, 2, 3, 4, 5}, {1, 1, 1, 1, 1}, 64) == Rows{{2, 3}});
  CHECK(halves({0}, {300}, 512) == Rows{{128, 172}});
  CHECK(halves({10}, {300}, 512) == Rows{{118, 182}});  // at position 128
  CHECK(halves({0}, {60}, 512) == Rows{{60, 0}});
  CHECK(halves({0, 0}, {63, 7}, 512) == Rows{{63, 7}});
  CHECK(halves({0}, {300}, 200) == Rows{{128, 72}, {56, 44}});
  CHECK(halves({0, 0}, {3, 3}, 2) == Rows{{2, 0}, {1, 1}, {2, 0}});
  CHECK(StepPlan::most_rows(200, 1) == 200);
  CHECK(StepPlan::most_rows(200, 2) == 164);
  CHECK(StepPlan::most_rows(16, 2) == 16);
}

TEST_CASE("sequence state: what is exported in pieces of any size is imported in pieces of any other") {
  constexpr int tokens = 13;
  for (const int draft_layers : {0, 1}) {
    const auto make_state = [&] {
      return SequenceState{
          KvCache(3, 5), draft_layers > 0 ? KvCache(draft_layers, 5) : KvCache(), draft_layers > 0 ? 4 : 0, {}};
    };
    SequenceState from = make_state();
    from.main.extend(tokens);
    if (draft_layers > 0) from.draft.extend(tokens);
    for (int token = 0; token < tokens; ++token)
      for (int i = 0; i < 5; ++i) {
        for (int layer = 0; layer < 3; ++layer)
          from.main.row(layer, token)[i] = static_cast<float>(100 * token + 10 * layer + i);
        if (draft_layers > 0) from.draft.row(0, token)[i] = static_cast<float>(-100 * token - i);
      }
    CHECK(from.length() == tokens);
    CHECK(from.bytes_per_token() == static_cast<std::size_t>(3 + draft_layers) * 5 * sizeof(float));
    std::vector<std::byte> whole(from.bytes(tokens));
    from.export_tokens(0, tokens, whole);
    for (int piece = 1; piece <= tokens; ++piece) {
      std::vector<std::byte> bytes;
      for (int first = 0; first < tokens; first += piece) {
        const int count = std::min(piece, tokens - first);
        std::vector<std::byte> part(from.bytes(count));
        from.export_tokens(first, count, part);
        bytes.insert(bytes.end(), part.begin(), part.end());
      }
      CHECK(bytes == whole);
      SequenceState to = make_state();
      for (int first = 0; first < tokens; first += piece) {
        const int count = std::min(piece, tokens - first);
        to.import_tokens(first, count, std::span(whole).subspan(from.bytes(first), from.bytes(count)));
      }
      CHECK(to.length() == tokens);
      std::vector<std::byte> back(to.bytes(tokens));
      to.export_tokens(0, tokens, back);
      CHECK(back == whole);
      CHECK_FALSE(to.complete());
      if (draft_layers > 0) {
        CHECK(to.draft.length() == tokens - 1);  // that behind the last is not known
        const std::vector<float> end{1, 2, 3, 4};
        std::vector<std::byte> end_back(to.end_bytes());
        to.import_end(std::as_bytes(std::span(end)));
        CHECK(to.complete());
        to.export_end(end_back);
        CHECK(std::ranges::equal(end_back, std::as_bytes(std::span(end))));
      }
      to.truncate(4);
      CHECK(to.length() == 4);
    }
  }
  // A long context of a large model is beyond what an int can count.
  const SequenceState large{KvCache(61, 576), KvCache(1, 576), 7168, {}};
  CHECK(large.bytes(100'000) == std::size_t{14'284'800'000});
  SequenceState uneven{KvCache(2, 4), KvCache(1, 4), 2, {}};
  uneven.main.extend(5);
  uneven.draft.extend(3);
  CHECK(uneven.length() == 4);
  CHECK_FALSE(uneven.complete());
}

TEST_CASE("sequence state: what the module has not seen keeps the tokens behind it") {
  SequenceState state{KvCache(2, 4), KvCache(1, 4), 2, {}};
  const std::vector<std::int32_t> prompt{7, 8, 9}, more{5};
  const std::vector<float> hidden{1, 2, 3, 4, 5, 6}, next{7, 8};
  CHECK(state.complete());
  state.main.extend(3);
  CHECK_FALSE(state.complete());
  state.note_unseen(prompt, hidden);
  CHECK(state.complete());
  CHECK(state.unseen.follows == std::vector<std::int32_t>{8, 9});
  state.main.extend(1);
  state.note_unseen(more, next);
  CHECK(state.complete());
  CHECK(state.unseen.follows == std::vector<std::int32_t>{8, 9, 5});
  std::vector<std::byte> end(state.end_bytes());
  state.export_end(end);
  CHECK(std::ranges::equal(end, std::as_bytes(std::span(next))));
}

}  // namespace supernode::moe

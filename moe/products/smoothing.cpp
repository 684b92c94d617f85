#include "moe/products/smoothing.hpp"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "moe/products/gemm.hpp"
#include "runtime/core/random.hpp"

namespace supernode::moe {
namespace {

/// Sampled rows of activations.
constexpr int sample_rows = 16;

/// Exponents that are tried beside no factors at all.
constexpr double exponents[] = {0.25, 0.5, 0.75};

/// A group gets factors when the error with them is below this share of the error without. The estimate knows no text:
/// small gains in it are none in a text's likelihood, outliers give large ones.
constexpr double worthwhile = 0.7;

using Values = std::vector<float>;

/// What int8 costs a product with `weights` [n_out, n_in] whose inputs are like `rows`: squared error of a row's
/// result.
double product_error(const Values& weights, std::size_t n_in, const Values& rows, const Values& factors) {
  const std::size_t n_rows = rows.size() / n_in;
  std::vector<double> squares(n_in);
  double input_step = 0, weight_squares = 0, error = 0;
  for (std::size_t r = 0; r < n_rows; ++r) {
    double top = 0;
    for (std::size_t i = 0; i < n_in; ++i) {
      const double x = static_cast<double>(rows[r * n_in + i]) / factors[i];
      squares[i] += x * x / static_cast<double>(n_rows);
      top = std::max(top, std::abs(x));
    }
    input_step += top / 127 * top / 127 / static_cast<double>(n_rows);
  }
  for (std::size_t at = 0; at < weights.size(); at += n_in) {
    float top = 0;
    for (std::size_t i = 0; i < n_in; ++i) top = std::max(top, std::abs(weights[at + i] * factors[i]));
    if (top == 0) continue;
    const float scale = top / 127, inverse = 127 / top;
    for (std::size_t i = 0; i < n_in; ++i) {
      const float weight = weights[at + i] * factors[i], lost = weight - std::nearbyint(weight * inverse) * scale;
      error += static_cast<double>(lost) * lost * squares[i];
      weight_squares += static_cast<double>(weight) * weight;
    }
  }
  // A rounded input is off by a uniform error, whose variance is a twelfth of the squared step.
  return error + weight_squares * input_step / 12;
}

}  // namespace

class Smoothing::Search {
 public:
  Search(Smoothing& result, Checkpoint& from) : result_(result), from_(from), c_(from.config()) {}

  void layer(int index) {
    const std::string prefix = fmt::format("model.layers.{}.", index), attention = prefix + "self_attn.";
    const int q_width = c_.n_heads * c_.qk_dim();
    const Values x = sampled(prefix + "input_layernorm.weight", c_.hidden_size);
    std::vector<Matrix> readers{{attention + "kv_a_proj_with_mqa.weight", c_.kv_width()}};
    readers.push_back(c_.q_lora_rank > 0 ? Matrix{attention + "q_a_proj.weight", c_.q_lora_rank}
                                         : Matrix{attention + "q_proj.weight", q_width});
    after_norm(prefix + "input_layernorm.weight", x, readers);
    if (c_.q_lora_rank > 0)
      after_norm(attention + "q_a_layernorm.weight", sampled(attention + "q_a_layernorm.weight", c_.q_lora_rank),
                 {{attention + "q_b_proj.weight", q_width}});
    values(attention);
    feed_forward(index, prefix);
  }

 private:
  struct Matrix {
    std::string name;
    int n_out;
  };

  Values read(const Matrix& matrix, int n_in) { return from_.read(matrix.name, {matrix.n_out, n_in}); }

  /// Normal values through a norm.
  Values sampled(const std::string& norm, int width) {
    const Values weights = from_.read(norm, {width});
    Random random(1, 0);
    Values rows(static_cast<std::size_t>(sample_rows) * weights.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      double sum = -6;
      for (int k = 0; k < 12; ++k) sum += random.uniform();
      rows[i] = static_cast<float>(sum) * weights[i % weights.size()];
    }
    return rows;
  }

  /// rows W^T
  Values multiply(const Values& rows, int n_in, const Values& weights) {
    const int n_out = static_cast<int>(weights.size()) / n_in;
    Values results(static_cast<std::size_t>(sample_rows) * static_cast<std::size_t>(n_out));
    gemm_.multiply_transposed(sample_rows, n_out, n_in, 1, rows.data(), n_in, weights.data(), n_in, 0, results.data(),
                              n_out);
    return results;
  }

  /// The best factors for the columns of `readers`, whose inputs are like `rows`. All ones where nothing helps.
  Values choose(const Values& rows, const std::vector<Matrix>& readers) {
    const std::size_t n_in = rows.size() / sample_rows;
    const int width = static_cast<int>(n_in);
    Values input_tops(n_in), weight_tops(n_in);
    for (std::size_t i = 0; i < rows.size(); ++i)
      input_tops[i % n_in] = std::max(input_tops[i % n_in], std::abs(rows[i]));
    for (const Matrix& matrix : readers) {
      const Values weights = read(matrix, width);
      for (std::size_t i = 0; i < weights.size(); ++i)
        weight_tops[i % n_in] = std::max(weight_tops[i % n_in], std::abs(weights[i]));
    }
    std::vector<Values> candidates{Values(n_in, 1.0f)};
    for (const double exponent : exponents) {
      Values& factors = candidates.emplace_back(n_in, 1.0f);
      for (std::size_t i = 0; i < n_in; ++i)
        if (input_tops[i] > 0 && weight_tops[i] > 0)
          factors[i] = static_cast<float>(std::exp2(
              std::clamp(std::round(exponent * std::log2(input_tops[i]) - (1 - exponent) * std::log2(weight_tops[i])),
                         -20.0, 20.0)));
    }
    std::vector<double> errors(candidates.size());
    for (const Matrix& matrix : readers) {
      const Values weights = read(matrix, width);
      for (std::size_t i = 0; i < candidates.size(); ++i)
        errors[i] += product_error(weights, n_in, rows, candidates[i]);
    }
    auto best = static_cast<std::size_t>(std::min_element(errors.begin(), errors.end()) - errors.begin());
    if (errors[best] > worthwhile * errors[0]) best = 0;
    result_.error_without_ += errors[0];
    result_.error_ += errors[best];
    ++result_.groups_;
    if (best > 0) ++result_.smoothed_;
    return candidates[best];
  }

  void multiply_columns(const std::string& name, const Values& factors) { result_.factors_[name].columns = factors; }
  void divide_rows(const std::string& name, Values factors) {
    for (float& factor : factors) factor = 1 / factor;
    result_.factors_[name].rows = std::move(factors);
  }

  Values after_norm(const std::string& norm, const Values& rows, const std::vector<Matrix>& readers) {
    const Values factors = choose(rows, readers);
    divide_rows(norm, factors);
    for (const Matrix& matrix : readers) multiply_columns(matrix.name, factors);
    return factors;
  }

  /// The values that attention sums, and o_proj.
  void values(const std::string& attention) {
    const int up = c_.nope_dim + c_.v_dim;
    const Matrix expand{attention + "kv_b_proj.weight", c_.n_heads * up};
    const Values all = multiply(sampled(attention + "kv_a_layernorm.weight", c_.kv_lora_rank), c_.kv_lora_rank,
                                read(expand, c_.kv_lora_rank));
    Values rows;
    for (std::size_t i = 0; i < all.size(); ++i)
      if (static_cast<int>(i % static_cast<std::size_t>(up)) >= c_.nope_dim) rows.push_back(all[i]);
    const Matrix output{attention + "o_proj.weight", c_.hidden_size};
    const Values factors = choose(rows, {output});
    multiply_columns(output.name, factors);
    Values expanded(static_cast<std::size_t>(expand.n_out), 1.0f);
    for (std::size_t i = 0, value = 0; i < expanded.size(); ++i)
      if (static_cast<int>(i % static_cast<std::size_t>(up)) >= c_.nope_dim) expanded[i] = factors[value++];
    divide_rows(expand.name, expanded);
  }

  void feed_forward(int index, const std::string& prefix) {
    const std::string norm = prefix + "post_attention_layernorm.weight", mlp = prefix + "mlp.";
    std::vector<Matrix> units;  // by their prefix, with their width
    if (!c_.is_moe_layer(index)) {
      units.push_back({mlp, c_.intermediate_size});
    } else {
      for (int expert = 0; expert < c_.n_routed_experts; ++expert)
        units.push_back({fmt::format("{}experts.{}.", mlp, expert), c_.moe_intermediate_size});
      if (c_.n_shared_experts > 0)
        units.push_back({mlp + "shared_experts.", c_.moe_intermediate_size * c_.n_shared_experts});
    }
    const Values x = sampled(norm, c_.hidden_size);
    std::vector<Matrix> readers;
    for (const Matrix& unit : units) {
      readers.push_back({unit.name + "gate_proj.weight", unit.n_out});
      readers.push_back({unit.name + "up_proj.weight", unit.n_out});
    }
    const Values factors = after_norm(norm, x, readers);
    if (c_.is_moe_layer(index)) multiply_columns(mlp + "gate.weight", factors);
    for (const Matrix& unit : units) {
      const Values gate =
          multiply(x, c_.hidden_size, read({unit.name + "gate_proj.weight", unit.n_out}, c_.hidden_size));
      const Values up = multiply(x, c_.hidden_size, read({unit.name + "up_proj.weight", unit.n_out}, c_.hidden_size));
      Values active(gate.size());
      for (std::size_t i = 0; i < gate.size(); ++i) active[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      const Values inner = choose(active, {{unit.name + "down_proj.weight", c_.hidden_size}});
      divide_rows(unit.name + "up_proj.weight", inner);
      multiply_columns(unit.name + "down_proj.weight", inner);
    }
  }

  Smoothing& result_;
  Checkpoint& from_;
  const ModelConfig& c_;
  Gemm gemm_{1};
};

Smoothing::Smoothing(Checkpoint& from) {
  Search search(*this, from);
  const ModelConfig& c = from.config();
  for (int layer = 0; layer < c.n_layers; ++layer) search.layer(layer);
  const std::string guesses = fmt::format("model.layers.{}.input_layernorm.weight", c.n_layers);
  if (c.n_mtp_layers > 0 && from.has(guesses)) search.layer(c.n_layers);
}

void Smoothing::apply(const std::string& tensor, std::span<const std::int64_t> shape, std::span<float> values) const {
  const auto found = factors_.find(tensor);
  if (found == factors_.end()) return;
  const auto& [rows, columns] = found->second;
  const std::size_t width = shape.size() < 2 ? 1 : static_cast<std::size_t>(shape[1]);
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!rows.empty()) values[i] *= rows[i / width];
    if (!columns.empty()) values[i] *= columns[i % width];
  }
}

}  // namespace supernode::moe

#pragma once
// Element-wise loops, vectorised for the processor that runs them (Highway, run-time dispatch).

#include <cstddef>

namespace supernode::moe {

/// y = x / rms(x) * weight, over n elements; y may be x.
void rms_norm(const float* x, const float* weight, float eps, std::size_t n, float* y);

/// y[i] = silu(gate_up[i]) * gate_up[n + i]: a gated unit whose two projections are one row of 2n.
void silu_gate(const float* gate_up, std::size_t n, float* y);

/// x = exp(x * scale - max) / sum, over n elements, in place.
void softmax(float* x, float scale, std::size_t n);

/// y += x
void add(const float* x, std::size_t n, float* y);

/// The n 32-bit integers at y become floats: y[i] = integer[i] * row_scale * scales[i].
void dequantise(float row_scale, const float* scales, std::size_t n, float* y);

/// y *= factor
void scale_by(float factor, std::size_t n, float* y);

/// y += weight * x
void add_scaled(float weight, const float* x, std::size_t n, float* y);

}  // namespace supernode::moe

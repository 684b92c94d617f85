#pragma once
// Rows between f32 and int8, bf16 or f32 in messages and files, vectorised for the processor that runs them. Pure;
// every vector width gives the same bits. Rows are `hidden` elements; f32 rows need no alignment.

#include <cstddef>
#include <span>

#include "runtime/core/element_type.hpp"

namespace supernode {

/// How a row is quantised: element = round-to-nearest-even(x * inverse), x ~ element * scale.
struct RowScale {
  float scale = 1, inverse = 1;
};

/// For int8: scale = max |x| / 127, so an element is off by at most scale / 2 (and the rounding of f32). A row without
/// an element above 1e-36 becomes zeros with scale 0. For the other types 1. Elements must be finite.
RowScale row_scale(ElementType type, std::span<const float> row);

/// Ordinary stores leave the row in the cache; streaming ones bypass it, which saves reading the old contents of slots
/// that do not fit there anyway.
enum class Stores { ordinary, streaming };

/// Writes the row to every destination in one pass over it. Streaming needs 64-byte aligned destinations, and
/// flush_stores() before the row is announced to another core.
void write_row(ElementType type, std::span<const float> row, RowScale scale, std::span<std::byte* const> destinations,
               Stores stores = Stores::ordinary);
void flush_stores();

/// The row as f32. `row` is aligned for its elements.
void read_row(ElementType type, const std::byte* row, float scale, std::span<float> out);

/// out = rows[0] + rows[1] + ..., in this order in f32; zeros without rows. `type` is f32 or bf16.
void sum_rows(ElementType type, std::span<const std::byte* const> rows, std::span<float> out);

}  // namespace supernode

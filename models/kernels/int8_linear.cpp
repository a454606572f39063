// A linear layer that rounds its inputs to int8, row by row, multiplies with weights in int8, adds in int32 and
// scales to float. Built by models/kernels.
//
//     out[row][column] = (Σ q[row][k] · weight[k][column]) · column_scales[column] · s + bias[column]
//     q = round(inputs[row] · (1 / max |inputs[row]| · 127)), s = max |inputs[row]| / 127
//
// VNNI and AMX multiply signed with unsigned bytes at full speed, so weights are stored 128 higher than they
// are, which is taken off again, for a whole row, as 128 · Σ q[row][k]. The sums are exact: a row's bits
// depend on neither its neighbours nor on which of the two computes.
//
// Weights lie in blocks of 32 columns, in these of 64 inputs (`kDepth`): two tiles, each 16 columns wide. A line
// of a tile has 4 inputs of each column. models/int8.py packs them so.

#ifdef __AVX512VNNI__

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <immintrin.h>
#include <torch/library.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#ifdef __AMX_INT8__
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr int64_t kLanes = 16;              // int32 or float of a register
constexpr int64_t kColumns = 2 * kLanes;    // of a block
constexpr int64_t kDepth = 64;              // inputs of a tile
constexpr int64_t kLine = 4 * kLanes;       // bytes of a tile's line, and of a register
constexpr int64_t kTile = kDepth * kLanes;  // bytes
constexpr int64_t kRows = 32;               // of two tiles
constexpr int64_t kChunk = 256;             // rows that meet a block before the next block's turn
constexpr int64_t kInRegisters = 12;        // rows whose sums, two registers each, leave room for weights
constexpr int64_t kGrain = 16;              // rows that are worth a thread's while to round
constexpr int32_t kRaised = 128;            // how far weights are above themselves
constexpr float kLargest = 127, kSmallest = 1e-12f;  // of int8, used symmetrically; of what a row is scaled by

int64_t up_to(int64_t count, int64_t whole) { return (count + whole - 1) / whole * whole; }

struct Product {
  const int8_t* rows;  // of `depth` bytes each; there are whole tiles of them
  const uint8_t* weight;
  const float *row_scales, *column_scales, *bias;
  const int32_t* excess;  // of each row: what the weights' 128 add to its sums
  float* out;
  int64_t count, columns, depth;

  const uint8_t* block(int64_t column) const { return weight + column * depth; }
};

// Turns sums, of up to 32 rows from `row` on and a block's columns, into results.
void finish(const Product& product, int64_t row, int64_t rows, int64_t column, const int32_t (*sums)[kColumns]) {
  for (int64_t half = 0; half < kColumns; half += kLanes) {
    const int64_t first = column + half, lanes = std::clamp<int64_t>(product.columns - first, 0, kLanes);
    const __mmask16 mask = (1u << lanes) - 1;
    const __m512 scales = _mm512_maskz_loadu_ps(mask, product.column_scales + first);
    const __m512 bias = product.bias ? _mm512_maskz_loadu_ps(mask, product.bias + first) : __m512{};
    for (int64_t i = 0; i < rows; ++i) {
      const __m512i excess = _mm512_set1_epi32(product.excess[row + i]);
      const __m512 exact = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_load_si512(sums[i] + half), excess));
      const __m512 scaled = _mm512_mul_ps(_mm512_mul_ps(exact, scales), _mm512_set1_ps(product.row_scales[row + i]));
      float* out = product.out + (row + i) * product.columns + first;
      _mm512_mask_storeu_ps(out, mask, product.bias ? _mm512_add_ps(scaled, bias) : scaled);
    }
  }
}

// --- VNNI: a few rows at a time, their sums in registers

template <int rows>
void multiply_rows(const Product& product, int64_t row, int64_t column) {
  __m512i left[rows], right[rows];
#pragma GCC unroll 12
  for (int i = 0; i < rows; ++i) left[i] = right[i] = _mm512_setzero_si512();
  const int8_t* inputs = product.rows + row * product.depth;
  const uint8_t* weights = product.block(column);
  for (int64_t k = 0; k < product.depth; k += kDepth, weights += 2 * kTile) {
    for (int64_t line = 0; line < kDepth / 4; ++line) {
      const __m512i low = _mm512_load_si512(weights + line * kLine);
      const __m512i high = _mm512_load_si512(weights + kTile + line * kLine);
#pragma GCC unroll 12
      for (int i = 0; i < rows; ++i) {
        int32_t four;
        std::memcpy(&four, inputs + i * product.depth + k + 4 * line, 4);
        const __m512i same = _mm512_set1_epi32(four);
        left[i] = _mm512_dpbusd_epi32(left[i], low, same);
        right[i] = _mm512_dpbusd_epi32(right[i], high, same);
      }
    }
  }
  alignas(64) int32_t sums[rows][kColumns];
#pragma GCC unroll 12
  for (int i = 0; i < rows; ++i) {
    _mm512_store_si512(sums[i], left[i]);
    _mm512_store_si512(sums[i] + kLanes, right[i]);
  }
  finish(product, row, rows, column, sums);
}

void multiply_in_registers(const Product& product, int64_t begin, int64_t end, int64_t column) {
  for (; begin + kInRegisters <= end; begin += kInRegisters) multiply_rows<kInRegisters>(product, begin, column);
  for (; begin + 4 <= end; begin += 4) multiply_rows<4>(product, begin, column);
  for (; begin < end; ++begin) multiply_rows<1>(product, begin, column);
}

// --- AMX: 32 rows at a time, their sums in tiles

#ifdef __AMX_INT8__

// Format: Intel's Instruction Set Extensions Programming Reference, "TILECFG".
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Linux lends the tiles to a process that asks: https://docs.kernel.org/arch/x86/xstate.html
bool has_tiles() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
}

void multiply_in_tiles(const Product& product, int64_t begin, int64_t end, int64_t column) {
  const int64_t stride = product.depth;
  alignas(64) int32_t sums[kRows][kColumns];
  for (int64_t row = begin; row < end; row += kRows) {
    const int8_t *upper = product.rows + row * stride, *lower = upper + kRows / 2 * stride;
    const uint8_t* weights = product.block(column);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < product.depth; k += kDepth, weights += 2 * kTile) {
      _tile_loadd(6, weights, kLine);
      _tile_loadd(4, upper + k, stride);
      _tile_dpbsud(0, 4, 6);
      _tile_loadd(7, weights + kTile, kLine);
      _tile_dpbsud(1, 4, 7);
      _tile_loadd(5, lower + k, stride);
      _tile_dpbsud(2, 5, 6);
      _tile_dpbsud(3, 5, 7);
    }
    _tile_stored(0, sums[0], sizeof sums[0]);
    _tile_stored(1, sums[0] + kLanes, sizeof sums[0]);
    _tile_stored(2, sums[kRows / 2], sizeof sums[0]);
    _tile_stored(3, sums[kRows / 2] + kLanes, sizeof sums[0]);
    finish(product, row, std::min(kRows, product.count - row), column, sums);
  }
}

#else

bool has_tiles() { return false; }

#endif

// Some blocks of columns against some rows.
void multiply(const Product& product, int64_t begin, int64_t end) {
  const int64_t chunks = up_to(product.count, kChunk) / kChunk;
  const bool tiles = has_tiles();
#ifdef __AMX_INT8__
  const TileShapes shapes;
  if (tiles) _tile_loadconfig(&shapes);
#endif
  for (int64_t item = begin; item < end; ++item) {
    const int64_t column = item / chunks * kColumns, first = item % chunks * kChunk;
    const int64_t last = std::min(first + kChunk, product.count);
    if (!tiles) {
      multiply_in_registers(product, first, last, column);
#ifdef __AMX_INT8__
    } else {
      multiply_in_tiles(product, first, last, column);
#endif
    }
  }
#ifdef __AMX_INT8__
  if (tiles) _tile_release();
#endif
}

// Rounds `depth` floats to int8 by a scale of their own, with zeros behind the last of `inputs`. A row that holds
// what is not finite has no such scale, and gives no numbers.
void quantize(const float* row, int64_t inputs, int64_t depth, int8_t* rounded, float& scale, int32_t& excess) {
  const auto mask_at = [&](int64_t k) {
    return static_cast<__mmask16>(inputs - k >= kLanes ? 0xffff : (1u << std::max<int64_t>(inputs - k, 0)) - 1);
  };
  // Compared as bits, by which NaN is more than infinity, and that more than any number.
  __m512i largest = _mm512_setzero_si512();
  for (int64_t k = 0; k < inputs; k += kLanes) {
    const __m512 size = _mm512_abs_ps(_mm512_maskz_loadu_ps(mask_at(k), row + k));
    largest = _mm512_max_epu32(largest, _mm512_castps_si512(size));
  }
  const float most = std::max(std::bit_cast<float>(_mm512_reduce_max_epu32(largest)), kSmallest);
  if (!std::isfinite(most)) {
    std::memset(rounded, 0, depth);
    scale = std::numeric_limits<float>::quiet_NaN();
    excess = 0;
    return;
  }
  scale = most / kLargest;
  const __m512 factor = _mm512_set1_ps(1 / most * kLargest);  // a division for each input takes far longer
  __m512i sums = _mm512_setzero_si512();
  for (int64_t k = 0; k < depth; k += kLanes) {
    const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(mask_at(k), row + k), factor));
    sums = _mm512_add_epi32(sums, whole);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(rounded + k), _mm512_cvtsepi32_epi8(whole));
  }
  excess = kRaised * _mm512_reduce_add_epi32(sums);
}

// inputs: rows × inputs, float; weight: packed; column_scales, bias: one for each output.
at::Tensor int8_linear(const at::Tensor& inputs, const at::Tensor& weight, const at::Tensor& column_scales,
                       const std::optional<at::Tensor>& bias) {
  TORCH_CHECK(inputs.dim() == 2 && column_scales.dim() == 1, "int8_linear: rows of inputs, a scale a column");
  const int64_t count = inputs.size(0), width = inputs.size(1), columns = column_scales.size(0);
  const int64_t depth = up_to(width, kDepth), padded = up_to(count, kRows);
  const int64_t blocks = up_to(columns, kColumns) / kColumns, chunks = up_to(count, kChunk) / kChunk;
  TORCH_CHECK(weight.is_contiguous() && weight.numel() == blocks * kColumns * depth,
              "int8_linear: weights are not packed for these sizes");
  TORCH_CHECK(reinterpret_cast<uintptr_t>(weight.const_data_ptr()) % kLine == 0, "int8_linear: weights lie askew");
  TORCH_CHECK(column_scales.is_contiguous() && (!bias || (bias->is_contiguous() && bias->numel() == columns)),
              "int8_linear: a scale and a bias a column");
  const at::Tensor given = inputs.contiguous();
  at::Tensor rows = at::empty({padded, depth}, inputs.options().dtype(at::kChar));
  at::Tensor out = at::empty({count, columns}, inputs.options());
  std::vector<float> row_scales(count);
  std::vector<int32_t> excess(count);
  at::parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
    const float* from = given.const_data_ptr<float>();
    int8_t* to = rows.mutable_data_ptr<int8_t>();
    for (int64_t row = begin; row < end; ++row) {
      quantize(from + row * width, width, depth, to + row * depth, row_scales[row], excess[row]);
    }
  });
  const Product product{rows.const_data_ptr<int8_t>(),
                        weight.const_data_ptr<uint8_t>(),
                        row_scales.data(),
                        column_scales.const_data_ptr<float>(),
                        bias ? bias->const_data_ptr<float>() : nullptr,
                        excess.data(),
                        out.mutable_data_ptr<float>(),
                        count,
                        columns,
                        depth};
  at::parallel_for(0, blocks * chunks, 1, [&](int64_t begin, int64_t end) { multiply(product, begin, end); });
  return out;
}

// The result without its values, for an exporter.
at::Tensor shape_of_result(const at::Tensor& inputs, const at::Tensor&, const at::Tensor& column_scales,
                           const std::optional<at::Tensor>&) {
  return at::empty_symint({inputs.sym_size(0), column_scales.sym_size(0)}, inputs.options());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(docmill, library) {
  library.def("int8_by_tiles() -> bool", &has_tiles);
  library.def("int8_linear(Tensor inputs, Tensor weight, Tensor column_scales, Tensor? bias) -> Tensor");
}

TORCH_LIBRARY_IMPL(docmill, CPU, library) { library.impl("int8_linear", &int8_linear); }

TORCH_LIBRARY_IMPL(docmill, Meta, library) { library.impl("int8_linear", &shape_of_result); }

#endif

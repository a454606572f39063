// Attention from one new token per slot to the columns which that slot has filled, and no others.
//
// Every slot is computed by one thread and from its own columns alone, so its bits depend neither on its
// neighbours nor on the length of the pool. Built by models/ragged.py.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <vector>

namespace {

using Vec = at::vec::Vectorized<float>;
constexpr int64_t kLanes = Vec::size();

float sum_of(const Vec& lanes) {
  return at::vec::vec_reduce_all<float>([](Vec& a, Vec& b) { return a + b; }, lanes);
}

// The filled columns of one slot and one KV head, each of `size` floats.
struct Columns {
  const float* keys;
  const float* values;
  int64_t count, size;
};

// Softmax(query · keys · scale) · values for `heads` query heads that share a KV head, so that each key and
// value is read once for all of them. `scores` has room for heads × (count + lanes).
template <int heads>
void attend_heads(const float* query, const Columns& columns, float scale, float* scores, float* out) {
  const int64_t count = columns.count, size = columns.size;
  float highest[heads];
  std::fill_n(highest, heads, -std::numeric_limits<float>::infinity());
  for (int64_t column = 0; column < count; ++column) {
    const float* key = columns.keys + column * size;
    Vec sums[heads];
    std::fill_n(sums, heads, Vec(0));
    for (int64_t d = 0; d < size; d += kLanes) {
      const Vec lanes = Vec::loadu(key + d);
      for (int head = 0; head < heads; ++head) {
        sums[head] = at::vec::fmadd(Vec::loadu(query + head * size + d), lanes, sums[head]);
      }
    }
    for (int head = 0; head < heads; ++head) {
      const float score = sum_of(sums[head]) * scale;
      scores[head * count + column] = score;
      highest[head] = std::max(highest[head], score);
    }
  }
  float weight[heads];
  for (int head = 0; head < heads; ++head) {
    float* row = scores + head * count;
    float total = 0;
    for (int64_t column = 0; column < count; column += kLanes) {
      const int64_t width = std::min(kLanes, count - column);
      const Vec powers = (Vec::loadu(row + column, width) - Vec(highest[head])).exp();
      powers.store(row + column, width);
      total += sum_of(Vec::set(Vec(0), powers, width));
    }
    weight[head] = 1 / total;
  }
  for (int64_t d = 0; d < size; d += kLanes) {
    Vec sums[heads];
    std::fill_n(sums, heads, Vec(0));
    for (int64_t column = 0; column < count; ++column) {
      const Vec lanes = Vec::loadu(columns.values + column * size + d);
      for (int head = 0; head < heads; ++head) {
        sums[head] = at::vec::fmadd(Vec(scores[head * count + column]), lanes, sums[head]);
      }
    }
    for (int head = 0; head < heads; ++head) {
      (sums[head] * Vec(weight[head])).store(out + head * size + d);
    }
  }
}

void attend_group(const float* query, int64_t heads, const Columns& columns, float scale, float* scores,
                  float* out) {
  while (heads > 0) {
    const int64_t taken = heads >= 8 ? 8 : heads >= 4 ? 4 : heads >= 2 ? 2 : 1;
    const auto attend = taken == 8   ? attend_heads<8>
                        : taken == 4 ? attend_heads<4>
                        : taken == 2 ? attend_heads<2>
                                     : attend_heads<1>;
    attend(query, columns, scale, scores, out);
    query += taken * columns.size;
    out += taken * columns.size;
    heads -= taken;
  }
}

// query: slots × heads × size; keys, values: slots × KV heads × columns × size; positions: slots, int32.
// A slot at position p sees columns max(0, p - window + 1) … p.
at::Tensor ragged_attention(const at::Tensor& query, const at::Tensor& keys, const at::Tensor& values,
                            const at::Tensor& positions, double scale, int64_t window) {
  const int64_t slots = keys.size(0), kv_heads = keys.size(1), length = keys.size(2), size = keys.size(3);
  TORCH_CHECK(size % kLanes == 0 && query.size(1) % kv_heads == 0 && query.size(2) == size);
  TORCH_CHECK(keys.is_contiguous() && values.is_contiguous() && keys.sizes() == values.sizes());
  const at::Tensor queries = query.contiguous(), places = positions.contiguous();
  at::Tensor out = at::empty_like(queries);
  const int64_t group = query.size(1) / kv_heads;
  const float* all_queries = queries.const_data_ptr<float>();
  const float* all_keys = keys.const_data_ptr<float>();
  const float* all_values = values.const_data_ptr<float>();
  const int32_t* all_places = places.const_data_ptr<int32_t>();
  float* all_out = out.mutable_data_ptr<float>();
  const int64_t threads = at::get_num_threads();
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scores(8 * (length + kLanes));
    for (int64_t thread = begin; thread < end; ++thread) {
      // Dealt out one by one: the longest lie together, in slots that were filled together.
      for (int64_t item = thread; item < slots * kv_heads; item += threads) {
        const int64_t last = std::clamp<int64_t>(all_places[item / kv_heads], 0, length - 1);
        const int64_t first = std::max<int64_t>(0, last - window + 1);
        const int64_t start = (item * length + first) * size;
        const Columns columns{all_keys + start, all_values + start, last - first + 1, size};
        const int64_t heads_before = item * group * size;
        attend_group(all_queries + heads_before, group, columns, static_cast<float>(scale), scores.data(),
                     all_out + heads_before);
      }
    }
  });
  return out;
}

}  // namespace

TORCH_LIBRARY(docmill, library) {
  library.def(
      "ragged_attention(Tensor query, Tensor keys, Tensor values, Tensor positions, float scale, int window)"
      " -> Tensor");
}

TORCH_LIBRARY_IMPL(docmill, CPU, library) { library.impl("ragged_attention", &ragged_attention); }

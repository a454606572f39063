// Attention from each query to the columns that it may see, and no others. Built by models/ragged.py.
//
// A query at position p sees columns max(0, p - window + 1) ... p of its own row. Every row is computed by one
// thread and from its own columns alone, so its bits depend neither on its neighbours nor on how many columns
// lie behind those that it sees.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <vector>

namespace {

using Vec = at::vec::Vectorized<float>;
constexpr int64_t kLanes = Vec::size();
constexpr int64_t kPair = 2 * kLanes;  // two vectors at a time keep the multipliers busy
constexpr int kMostHeads = 8;          // query heads that share a KV head, taken together

float sum_of(const Vec& lanes) {
  return at::vec::vec_reduce_all<float>([](Vec& a, Vec& b) { return a + b; }, lanes);
}

int64_t whole_pairs(int64_t count) { return (count + kPair - 1) / kPair * kPair; }

// Keys of one KV head, turned so that the columns are adjacent: size × `stride`, padded with zeros.
struct Turned {
  const float* keys;
  int64_t stride;
};

// scores[head][column] = query[head] · keys[column] * scale, for keys of count × size: each is read once.
template <int heads>
void score(const float* query, const float* keys, int64_t count, int64_t size, float scale, float* scores,
           int64_t stride) {
  for (int64_t column = 0; column < count; ++column) {
    const float* key = keys + column * size;
    Vec sums[heads];
    std::fill_n(sums, heads, Vec(0));
    for (int64_t d = 0; d < size; d += kLanes) {
      const Vec lanes = Vec::loadu(key + d);
      for (int head = 0; head < heads; ++head) {
        sums[head] = at::vec::fmadd(Vec::loadu(query + head * size + d), lanes, sums[head]);
      }
    }
    for (int head = 0; head < heads; ++head) scores[head * stride + column] = sum_of(sums[head]) * scale;
  }
}

// The same from turned keys, for many columns at a time; worth the turning where many queries read them.
template <int heads>
void score(const float* query, const Turned& turned, int64_t first, int64_t count, int64_t size, float scale,
           float* scores, int64_t stride) {
  for (int64_t column = 0; column < count; column += kPair) {
    Vec left[heads], right[heads];
    std::fill_n(left, heads, Vec(0));
    std::fill_n(right, heads, Vec(0));
    for (int64_t d = 0; d < size; ++d) {
      const float* keys = turned.keys + d * turned.stride + first + column;
      const Vec near = Vec::loadu(keys), far = Vec::loadu(keys + kLanes);
      for (int head = 0; head < heads; ++head) {
        const Vec factor(query[head * size + d]);
        left[head] = at::vec::fmadd(factor, near, left[head]);
        right[head] = at::vec::fmadd(factor, far, right[head]);
      }
    }
    for (int head = 0; head < heads; ++head) {
      (left[head] * Vec(scale)).store(scores + head * stride + column);
      (right[head] * Vec(scale)).store(scores + head * stride + column + kLanes);
    }
  }
}

// Replaces scores by exp(score - highest) and returns the sum. There is room for whole vectors.
float exponentials(float* scores, int64_t count) {
  const int64_t whole = count / kLanes * kLanes, rest = count - whole;
  Vec highest(-std::numeric_limits<float>::infinity());
  for (int64_t column = 0; column < whole; column += kLanes) {
    highest = at::vec::maximum(highest, Vec::loadu(scores + column));
  }
  if (rest) highest = at::vec::maximum(highest, Vec::set(highest, Vec::loadu(scores + whole), rest));
  highest = Vec(at::vec::vec_reduce_all<float>([](Vec& a, Vec& b) { return at::vec::maximum(a, b); }, highest));
  Vec total(0);
  for (int64_t column = 0; column < whole; column += kLanes) {
    const Vec powers = (Vec::loadu(scores + column) - highest).exp_u20();
    powers.store(scores + column);
    total = total + powers;
  }
  if (rest) {
    const Vec powers = (Vec::loadu(scores + whole) - highest).exp_u20();
    powers.store(scores + whole, rest);
    total = total + Vec::set(Vec(0), powers, rest);
  }
  return sum_of(total);
}

// out[head] = sum over columns of weights[head][column] * values[column], over total[head].
template <int heads>
void weigh(const float* weights, int64_t stride, const float* values, int64_t count, int64_t size,
           const float* total, float* out) {
  int64_t d = 0;
  for (; d + kPair <= size; d += kPair) {
    Vec left[heads], right[heads];
    std::fill_n(left, heads, Vec(0));
    std::fill_n(right, heads, Vec(0));
    for (int64_t column = 0; column < count; ++column) {
      const float* value = values + column * size + d;
      const Vec near = Vec::loadu(value), far = Vec::loadu(value + kLanes);
      for (int head = 0; head < heads; ++head) {
        const Vec factor(weights[head * stride + column]);
        left[head] = at::vec::fmadd(factor, near, left[head]);
        right[head] = at::vec::fmadd(factor, far, right[head]);
      }
    }
    for (int head = 0; head < heads; ++head) {
      (left[head] / Vec(total[head])).store(out + head * size + d);
      (right[head] / Vec(total[head])).store(out + head * size + d + kLanes);
    }
  }
  for (; d < size; d += kLanes) {
    Vec sums[heads];
    std::fill_n(sums, heads, Vec(0));
    for (int64_t column = 0; column < count; ++column) {
      const Vec lanes = Vec::loadu(values + column * size + d);
      for (int head = 0; head < heads; ++head) {
        sums[head] = at::vec::fmadd(Vec(weights[head * stride + column]), lanes, sums[head]);
      }
    }
    for (int head = 0; head < heads; ++head) (sums[head] / Vec(total[head])).store(out + head * size + d);
  }
}

// What one query sees of one KV head; `turned` holds its keys once more, or nothing.
struct Seen {
  const float* keys;
  const float* values;
  Turned turned;
  int64_t first, count, size;
};

template <int heads>
void attend_heads(const float* query, const Seen& seen, float scale, float* scores, float* out) {
  const int64_t stride = whole_pairs(seen.count);
  const float* keys = seen.keys + seen.first * seen.size;
  if (seen.turned.keys) {
    score<heads>(query, seen.turned, seen.first, seen.count, seen.size, scale, scores, stride);
  } else {
    score<heads>(query, keys, seen.count, seen.size, scale, scores, stride);
  }
  float total[heads];
  for (int head = 0; head < heads; ++head) total[head] = exponentials(scores + head * stride, seen.count);
  weigh<heads>(scores, stride, seen.values + seen.first * seen.size, seen.count, seen.size, total, out);
}

void attend_group(const float* query, int64_t heads, const Seen& seen, float scale, float* scores, float* out) {
  while (heads > 0) {
    const int64_t taken = heads >= 8 ? 8 : heads >= 4 ? 4 : heads >= 2 ? 2 : 1;
    const auto attend = taken == 8   ? attend_heads<8>
                        : taken == 4 ? attend_heads<4>
                        : taken == 2 ? attend_heads<2>
                                     : attend_heads<1>;
    attend(query, seen, scale, scores, out);
    query += taken * seen.size;
    out += taken * seen.size;
    heads -= taken;
  }
}

void turn(const float* keys, int64_t columns, int64_t size, int64_t stride, float* turned) {
  for (int64_t d = 0; d < size; ++d) {
    for (int64_t column = 0; column < columns; ++column) turned[d * stride + column] = keys[column * size + d];
  }
}

// query: rows × queries × heads × size, as the result; keys, values: rows × KV heads × columns × size;
// positions: rows × queries or 1 × queries, int32.
at::Tensor ragged_attention(const at::Tensor& query, const at::Tensor& keys, const at::Tensor& values,
                            const at::Tensor& positions, double scale, int64_t window) {
  const int64_t rows = keys.size(0), kv_heads = keys.size(1), columns = keys.size(2), size = keys.size(3);
  const int64_t queries = query.size(1), heads = query.size(2), group = heads / kv_heads;
  TORCH_CHECK(size % kLanes == 0 && heads % kv_heads == 0 && query.size(3) == size && columns > 0);
  TORCH_CHECK(keys.sizes() == values.sizes() && query.size(0) == rows && positions.size(1) == queries);
  TORCH_CHECK(positions.size(0) == rows || positions.size(0) == 1);
  const at::Tensor q = query.contiguous(), k = keys.contiguous(), v = values.contiguous();
  const at::Tensor places = positions.contiguous();
  at::Tensor out = at::empty_like(q);
  const float* all_queries = q.const_data_ptr<float>();
  const float* all_keys = k.const_data_ptr<float>();
  const float* all_values = v.const_data_ptr<float>();
  const int32_t* all_places = places.const_data_ptr<int32_t>();
  float* all_out = out.mutable_data_ptr<float>();
  const bool turning = queries > 1;
  const int64_t stride = whole_pairs(columns) + kPair, threads = at::get_num_threads();
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scores(kMostHeads * stride);
    std::vector<float> turned(turning ? size * stride : 0);  // what is behind the columns stays zero
    for (int64_t thread = begin; thread < end; ++thread) {
      // Dealt out one by one: the longest lie together, in slots that were filled together.
      for (int64_t item = thread; item < rows * kv_heads; item += threads) {
        const int64_t row = item / kv_heads, kv_head = item % kv_heads, start = item * columns * size;
        if (turning) turn(all_keys + start, columns, size, stride, turned.data());
        const int32_t* place = all_places + (places.size(0) == 1 ? 0 : row * queries);
        for (int64_t i = 0; i < queries; ++i) {
          const int64_t last = std::clamp<int64_t>(place[i], 0, columns - 1);
          const int64_t first = std::max<int64_t>(0, last - window + 1);
          const Seen seen{all_keys + start, all_values + start, {turned.empty() ? nullptr : turned.data(), stride},
                          first,            last - first + 1,   size};
          const int64_t own = ((row * queries + i) * heads + kv_head * group) * size;
          attend_group(all_queries + own, group, seen, static_cast<float>(scale), scores.data(), all_out + own);
        }
      }
    }
  });
  return out;
}

// The result without its values, for an exporter.
at::Tensor shape_of_result(const at::Tensor& query, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                           double, int64_t) {
  return at::empty_symint(query.sym_sizes(), query.options());
}

}  // namespace

TORCH_LIBRARY(docmill, library) {
  library.def(
      "ragged_attention(Tensor query, Tensor keys, Tensor values, Tensor positions, float scale, int window)"
      " -> Tensor");
}

TORCH_LIBRARY_IMPL(docmill, CPU, library) { library.impl("ragged_attention", &ragged_attention); }

TORCH_LIBRARY_IMPL(docmill, Meta, library) { library.impl("ragged_attention", &shape_of_result); }

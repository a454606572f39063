// Attention from each token of a pass to the columns of a pool that it may see, and no others.
// Built by models/kernels.
//
// A token at position p of a slot sees columns max(0, p - window + 1) ... p of that slot. What one token sees
// of one KV head is computed by one thread, in an order that hangs on these columns and on the tokens of its
// own slot alone, so that its bits depend neither on its neighbours nor on what the rest of the pool holds.

#include <ATen/Dispatch.h>
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

Vec load(const float* lanes) { return Vec::loadu(lanes); }

Vec load(const c10::BFloat16* lanes) {
  Vec out;
  at::vec::load_fp32_from_bf16(lanes, out);
  return out;
}

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
template <int heads, typename T>
void score(const float* query, const T* keys, int64_t count, int64_t size, float scale, float* scores,
           int64_t stride) {
  for (int64_t column = 0; column < count; ++column) {
    const T* key = keys + column * size;
    Vec sums[heads];
    std::fill_n(sums, heads, Vec(0));
    for (int64_t d = 0; d < size; d += kLanes) {
      const Vec lanes = load(key + d);
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
template <int heads, typename T>
void weigh(const float* weights, int64_t stride, const T* values, int64_t count, int64_t size,
           const float* total, float* out) {
  int64_t d = 0;
  for (; d + kPair <= size; d += kPair) {
    Vec left[heads], right[heads];
    std::fill_n(left, heads, Vec(0));
    std::fill_n(right, heads, Vec(0));
    for (int64_t column = 0; column < count; ++column) {
      const T* value = values + column * size + d;
      const Vec near = load(value), far = load(value + kLanes);
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
      const Vec lanes = load(values + column * size + d);
      for (int head = 0; head < heads; ++head) {
        sums[head] = at::vec::fmadd(Vec(weights[head * stride + column]), lanes, sums[head]);
      }
    }
    for (int head = 0; head < heads; ++head) (sums[head] / Vec(total[head])).store(out + head * size + d);
  }
}

// What one token sees of one KV head; `turned` holds its keys once more, or nothing.
template <typename T>
struct Seen {
  const T* keys;
  const T* values;
  Turned turned;
  int64_t first, count, size;
};

template <int heads, typename T>
void attend_heads(const float* query, const Seen<T>& seen, float scale, float* scores, float* out) {
  const int64_t stride = whole_pairs(seen.count);
  if (seen.turned.keys) {
    score<heads>(query, seen.turned, seen.first, seen.count, seen.size, scale, scores, stride);
  } else {
    score<heads>(query, seen.keys + seen.first * seen.size, seen.count, seen.size, scale, scores, stride);
  }
  float total[heads];
  for (int head = 0; head < heads; ++head) total[head] = exponentials(scores + head * stride, seen.count);
  weigh<heads>(scores, stride, seen.values + seen.first * seen.size, seen.count, seen.size, total, out);
}

template <typename T>
void attend_group(const float* query, int64_t heads, const Seen<T>& seen, float scale, float* scores, float* out) {
  while (heads > 0) {
    const int64_t taken = heads >= 8 ? 8 : heads >= 4 ? 4 : heads >= 2 ? 2 : 1;
    const auto attend = taken == 8   ? attend_heads<8, T>
                        : taken == 4 ? attend_heads<4, T>
                        : taken == 2 ? attend_heads<2, T>
                                     : attend_heads<1, T>;
    attend(query, seen, scale, scores, out);
    query += taken * seen.size;
    out += taken * seen.size;
    heads -= taken;
  }
}

template <typename T>
void turn(const T* keys, int64_t columns, int64_t size, int64_t stride, float* turned) {
  for (int64_t d = 0; d < size; ++d) {
    for (int64_t column = 0; column < columns; ++column) turned[d * stride + column] = keys[column * size + d];
    std::fill_n(turned + d * stride + columns, stride - columns, 0.0f);
  }
}

// Tokens of one slot that follow each other in a pass, and the columns that they see all together.
struct Run {
  int64_t begin, end, slot, columns;
};

std::vector<Run> runs_in(const int64_t* places, int64_t tokens, int64_t slots, int64_t columns) {
  std::vector<Run> runs;
  for (int64_t token = 0; token < tokens; ++token) {
    const int64_t slot = places[2 * token], position = places[2 * token + 1];
    TORCH_CHECK(0 <= slot && slot < slots && 0 <= position && position < columns);
    if (runs.empty() || runs.back().slot != slot) runs.push_back({token, token, slot, 0});
    runs.back().end = token + 1;
    runs.back().columns = std::max(runs.back().columns, position + 1);
  }
  return runs;
}

template <typename T>
void attend_all(const at::Tensor& query, const at::Tensor& keys, const at::Tensor& values, const int64_t* places,
                float scale, int64_t window, at::Tensor& out) {
  const int64_t heads = query.size(1), kv_heads = keys.size(1), group = heads / kv_heads;
  const int64_t columns = keys.size(2), size = keys.size(3);
  const std::vector<Run> runs = runs_in(places, query.size(0), keys.size(0), columns);
  const int64_t items = static_cast<int64_t>(runs.size()) * kv_heads, threads = at::get_num_threads();
  const float* all_queries = query.const_data_ptr<float>();
  float* all_out = out.mutable_data_ptr<float>();
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scores(kMostHeads * whole_pairs(columns)), turned;
    for (int64_t thread = begin; thread < end; ++thread) {
      // Dealt out one by one: the longest lie together, in slots that were filled together.
      for (int64_t item = thread; item < items; item += threads) {
        const Run& run = runs[item / kv_heads];
        const int64_t kv_head = item % kv_heads, start = (run.slot * kv_heads + kv_head) * columns * size;
        const T* head_keys = keys.const_data_ptr<T>() + start;
        const T* head_values = values.const_data_ptr<T>() + start;
        const int64_t stride = whole_pairs(run.columns) + kPair;
        const bool turning = run.end - run.begin > 1;
        if (turning) {
          turned.resize(std::max<size_t>(turned.size(), size * stride));
          turn(head_keys, run.columns, size, stride, turned.data());
        }
        for (int64_t token = run.begin; token < run.end; ++token) {
          const int64_t last = places[2 * token + 1], first = std::max<int64_t>(0, last - window + 1);
          const Seen<T> seen{head_keys, head_values, {turning ? turned.data() : nullptr, stride},
                             first,     last - first + 1, size};
          const int64_t own = (token * heads + kv_head * group) * size;
          attend_group(all_queries + own, group, seen, scale, scores.data(), all_out + own);
        }
      }
    }
  });
}

// query: tokens × heads × size, as the result; keys, values: slots × KV heads × columns × size;
// places: tokens × 2, int64, the slot and the position of each.
at::Tensor ragged_attention(const at::Tensor& query, const at::Tensor& keys, const at::Tensor& values,
                            const at::Tensor& places, double scale, int64_t window) {
  const int64_t tokens = query.size(0), size = query.size(2);
  TORCH_CHECK(size % kLanes == 0 && query.size(1) % keys.size(1) == 0 && keys.size(3) == size && window > 0);
  TORCH_CHECK(keys.is_contiguous() && values.is_contiguous() && keys.sizes() == values.sizes());
  TORCH_CHECK(places.size(0) == tokens && places.size(1) == 2 && keys.dtype() == values.dtype());
  const at::Tensor q = query.to(at::kFloat).contiguous(), where = places.contiguous();
  at::Tensor out = at::empty_like(q);
  AT_DISPATCH_SWITCH(keys.scalar_type(), "ragged_attention",
                     AT_DISPATCH_CASE(at::kFloat, [&] {
                       attend_all<scalar_t>(q, keys, values, where.const_data_ptr<int64_t>(),
                                            static_cast<float>(scale), window, out);
                     }) AT_DISPATCH_CASE(at::kBFloat16, [&] {
                       attend_all<scalar_t>(q, keys, values, where.const_data_ptr<int64_t>(),
                                            static_cast<float>(scale), window, out);
                     }));
  return out.to(query.scalar_type());
}

// The result without its values, for an exporter.
at::Tensor shape_of_result(const at::Tensor& query, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                           double, int64_t) {
  return at::empty_symint(query.sym_sizes(), query.options());
}

}  // namespace

TORCH_LIBRARY(docmill, library) {
  library.def(
      "ragged_attention(Tensor query, Tensor keys, Tensor values, Tensor places, float scale, int window)"
      " -> Tensor");
}

TORCH_LIBRARY_IMPL(docmill, CPU, library) { library.impl("ragged_attention", &ragged_attention); }

TORCH_LIBRARY_IMPL(docmill, Meta, library) { library.impl("ragged_attention", &shape_of_result); }

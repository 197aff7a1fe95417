// The passes of fused.py in machine code: one read, one write, all lanes and threads of the processor.
//
// A tensor is `rows` rows of `width` numbers in memory order, each row with its own step. Work is cut into
// blocks of fixed size and sums are kept per block, so that results do not depend on the number of threads.
// Loops are written so that compilers turn them into vectors: without branches, on plain integers and floats.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

using Bfloat16 = uint16_t;

constexpr int64_t BLOCK = 8192;

struct Grid {
    float low, high, floor, smallest;
    int32_t power_of_two;
};

inline float wide(float x) { return x; }

inline float wide(Bfloat16 x) {
    const uint32_t bits = static_cast<uint32_t>(x) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline void store(float* to, float value) { *to = value; }

inline void store(Bfloat16* to, float value) {  // round half to even
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof value);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    *to = static_cast<Bfloat16>(value == value ? rounded : 0x7fc0);
}

inline float step_value(float step, Grid grid) {  // NaN stays NaN
    float value = std::fabs(step);
    value = value < grid.smallest ? grid.smallest : value;
    if (grid.power_of_two && value == value) {
        uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        bits = (bits + 0x400000) & 0x7f800000;  // from 1.5 on the fraction carries into the exponent
        std::memcpy(&value, &bits, sizeof bits);
    }
    return value;
}

inline float sign(float x) { return static_cast<float>((x > 0) - (x < 0)); }

inline float clipped(float code, Grid grid) {  // written so that NaN stays NaN
    code = code < grid.low ? grid.low : code;
    return code > grid.high ? grid.high : code;
}

inline bool inside(float scaled, float code, Grid grid) {
    return (code >= grid.low) & (code <= grid.high) & (scaled > grid.floor);
}

template <class X, class Y>
void value_block(const X* x, float step, Grid grid, int64_t n, Y* y) {
    for (int64_t i = 0; i < n; ++i) store(y + i, clipped(std::nearbyint(wide(x[i]) / step), grid) * step);
}

template <class X>
bool code_block(const X* x, float step, Grid grid, int64_t n, int32_t zero, uint8_t* out) {
    int32_t broken = 0;
#pragma omp simd reduction(| : broken)
    for (int64_t i = 0; i < n; ++i) {
        const float code = clipped(std::nearbyint(wide(x[i]) / step), grid);
        broken |= code != code;
        out[i] = static_cast<uint8_t>(static_cast<int32_t>(code == code ? code : 0.0f) + zero);
    }
    return broken;
}

template <class X, class Y>
void gradient_block(const X* x, const Y* grad, float step, Grid grid, int64_t n, X* out) {
    for (int64_t i = 0; i < n; ++i) {
        const float scaled = wide(x[i]) / step, code = std::nearbyint(scaled);
        const float given = wide(grad[i]);
        store(out + i, inside(scaled, code, grid) ? given : 0.0f);
    }
}

template <class X, class Y>
float step_block(const X* x, const Y* grad, float step, Grid grid, int64_t n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) {
        const float scaled = wide(x[i]) / step, code = std::nearbyint(scaled);
        sum += wide(grad[i]) * (clipped(code, grid) - (inside(scaled, code, grid) ? scaled : 0.0f));
    }
    return sum;
}

// Calls `work(block, row, begin, n)` for every block of every row, on all threads.
template <class Work>
void for_blocks(int64_t rows, int64_t width, Work work) {
    const int64_t blocks = (width + BLOCK - 1) / BLOCK;
#pragma omp parallel for if (rows * width > 4 * BLOCK)
    for (int64_t block = 0; block < rows * blocks; ++block) {
        const int64_t row = block / blocks, first = block % blocks * BLOCK;
        work(block, row, row * width + first, std::min(BLOCK, width - first));
    }
}

template <class X, class Y>
void values(const X* x, const float* step, Grid grid, int64_t rows, int64_t width, Y* y) {
    for_blocks(rows, width, [=](int64_t, int64_t row, int64_t begin, int64_t n) {
        value_block(x + begin, step_value(step[row], grid), grid, n, y + begin);
    });
}

// `sums` has one place per block, for `factor` times the gradient of the step; without it only the gradient of x
// is computed.
template <class X, class Y>
void gradients(const X* x, const Y* grad, const float* step, Grid grid, int64_t rows, int64_t width, X* out,
               float* sums, float factor) {
    for_blocks(rows, width, [=](int64_t block, int64_t row, int64_t begin, int64_t n) {
        const float value = step_value(step[row], grid);
        gradient_block(x + begin, grad + begin, value, grid, n, out + begin);
        if (sums) sums[block] = step_block(x + begin, grad + begin, value, grid, n) * (sign(step[row]) * factor);
    });
}

// Codes plus `zero` as bytes, and the value of each step: NaN where there is a NaN among its numbers.
template <class X>
void codes(const X* x, const float* step, Grid grid, int64_t rows, int64_t width, int32_t zero, uint8_t* out,
           float* value) {
    for (int64_t row = 0; row < rows; ++row) value[row] = step_value(step[row], grid);
    for_blocks(rows, width, [=](int64_t, int64_t row, int64_t begin, int64_t n) {
        if (code_block(x + begin, step_value(step[row], grid), grid, n, zero, out + begin)) {
#pragma omp atomic write
            value[row] = NAN;
        }
    });
}

}  // namespace

// One pair of functions for each pair of types: of x, and of the value and its gradient.
#define PASSES(NAME, X, Y)                                                                                    \
    extern "C" void values_##NAME(const X* x, const float* step, Grid grid, int64_t rows, int64_t width,      \
                                  Y* y) {                                                                     \
        values(x, step, grid, rows, width, y);                                                                \
    }                                                                                                         \
    extern "C" void gradients_##NAME(const X* x, const Y* grad, const float* step, Grid grid, int64_t rows,   \
                                     int64_t width, X* out, float* sums, float factor) {                      \
        gradients(x, grad, step, grid, rows, width, out, sums, factor);                                       \
    }

PASSES(float32_float32, float, float)
PASSES(float32_bfloat16, float, Bfloat16)
PASSES(bfloat16_bfloat16, Bfloat16, Bfloat16)

#define CODES(NAME, X)                                                                                        \
    extern "C" void codes_##NAME(const X* x, const float* step, Grid grid, int64_t rows, int64_t width,       \
                                 int32_t zero, uint8_t* out, float* value) {                                  \
        codes(x, step, grid, rows, width, zero, out, value);                                                  \
    }

CODES(float32, float)
CODES(bfloat16, Bfloat16)

extern "C" int64_t block_size() { return BLOCK; }

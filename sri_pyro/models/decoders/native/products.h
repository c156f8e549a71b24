/* Products of matrices whose right sides stay the same, in single precision on x86: ROWS rows by PANEL columns at a
 * time, whose sums stay in registers.
 *
 * A right side [K, N] comes as panels [N / PANEL, K, PANEL]. A number is summed in the same order wherever its row
 * stands, so that neither threads nor batches change a result.
 */
#include <immintrin.h>
#include <sys/mman.h>

#if BYTES == 64
#define ROWS 14
#else
#define ROWS 6
#endif
#define PANEL (2 * LANES)
#define DEPTH 512
#define AHEAD 8
#define LARGE_BYTES (1 << 22)

static int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

/* The largest of a vector's numbers, and their sum. */
#define REDUCED(function, x)                                                                                           \
    __m128 four = function(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));                                    \
    four = function(four, _mm_movehl_ps(four, four));                                                                  \
    return _mm_cvtss_f32(function(four, _mm_movehdup_ps(four)));
#if BYTES == 64
#define HALVED(function, x)                                                                                            \
    function(_mm512_castps512_ps256((__m512)x), (__m256)_mm512_extractf64x4_pd((__m512d)x, 1))
#else
#define HALVED(function, x) (__m256) x
#endif

static inline float greatest(vec x)
{
    const __m256 y = HALVED(_mm256_max_ps, x);
    REDUCED(_mm_max_ps, y)
}

static inline float added(vec x)
{
    const __m256 y = HALVED(_mm256_add_ps, x);
    REDUCED(_mm_add_ps, y)
}

/* sums[i] = start + a[i, :] b, for a panel b [depth, PANEL]. */
INLINE void tile(const int rows, int64_t depth, const float *a, int64_t stride, const float *b, const float *start,
                 vec sums[][2])
{
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++) {
        sums[i][0] = start ? load(start) : all(0);
        sums[i][1] = start ? load(start + LANES) : all(0);
    }
    for (int64_t k = 0; k < depth; k++) {
        const vec left = load(b + k * PANEL), right = load(b + k * PANEL + LANES);
        __builtin_prefetch(b + (k + AHEAD) * PANEL);
        __builtin_prefetch(b + (k + AHEAD) * PANEL + LANES);
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++) {
            const float x = a[i * stride + k];
            sums[i][0] += x * left;
            sums[i][1] += x * right;
        }
    }
}

/* Calls a function of a number of rows, 1 to ROWS, that the compiler is to know. */
#if ROWS == 14
#define MORE_CASES(f, ...) CASE(7, f, __VA_ARGS__) CASE(8, f, __VA_ARGS__) CASE(9, f, __VA_ARGS__)                     \
    CASE(10, f, __VA_ARGS__) CASE(11, f, __VA_ARGS__) CASE(12, f, __VA_ARGS__) CASE(13, f, __VA_ARGS__)                \
    CASE(14, f, __VA_ARGS__)
#else
#define MORE_CASES(f, ...)
#endif
#define CASE(n, f, ...)                                                                                                \
    case n:                                                                                                            \
        f(n, __VA_ARGS__);                                                                                             \
        break;
#define KNOWING(rows, f, ...)                                                                                          \
    switch (rows) {                                                                                                    \
        CASE(1, f, __VA_ARGS__) CASE(2, f, __VA_ARGS__) CASE(3, f, __VA_ARGS__) CASE(4, f, __VA_ARGS__)                \
        CASE(5, f, __VA_ARGS__) CASE(6, f, __VA_ARGS__) MORE_CASES(f, __VA_ARGS__)                                     \
    }

/* c[i, :] = start + a[i, :] b; most[i] is at least the largest of it. */
INLINE void put_tile(const int rows, int64_t depth, const float *a, int64_t stride, const float *b, const float *start,
                     float *c, int64_t c_stride, vec *most)
{
    vec sums[ROWS][2];
    tile(rows, depth, a, stride, b, start, sums);
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++) {
        store(c + i * c_stride, sums[i][0]);
        store(c + i * c_stride + LANES, sums[i][1]);
        if (most)
            most[i] = larger(most[i], larger(sums[i][0], sums[i][1]));
    }
}

/* c[i, :] = c[i, :] factor[i] + a[i, :] b */
INLINE void add_tile(const int rows, int64_t depth, const float *a, int64_t stride, const float *b, float *c,
                     int64_t c_stride, const float *factor)
{
    vec sums[ROWS][2];
    tile(rows, depth, a, stride, b, 0, sums);
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++) {
        float *left = c + i * c_stride, *right = left + LANES;
        store(left, load(left) * factor[i] + sums[i][0]);
        store(right, load(right) * factor[i] + sums[i][1]);
    }
}

static __attribute__((noinline)) void multiply(int rows, int64_t depth, const float *a, int64_t stride,
                                               const float *b, float *c, int64_t c_stride)
{
    KNOWING(rows, put_tile, depth, a, stride, b, 0, c, c_stride, 0)
}

static __attribute__((noinline)) void multiply_and_compare(int rows, int64_t depth, const float *a, int64_t stride,
                                                           const float *b, const float *start, float *c,
                                                           int64_t c_stride, vec *most)
{
    KNOWING(rows, put_tile, depth, a, stride, b, start, c, c_stride, most)
}

static __attribute__((noinline)) void accumulate(int rows, int64_t depth, const float *a, int64_t stride,
                                                 const float *b, float *c, int64_t c_stride, const float *factor)
{
    KNOWING(rows, add_tile, depth, a, stride, b, c, c_stride, factor)
}

static int64_t panels(int64_t width) { return (width + PANEL - 1) / PANEL * PANEL; }

/* The next place in some room, or how much there is to be of it while there is none. */
static float *take(float *base, int64_t *used, int64_t numbers)
{
    float *place = base ? base + *used : 0;
    *used += panels(numbers);
    return place;
}

/* c = a b for any number of rows and whole panels b [columns / PANEL, depth, PANEL]; sums of DEPTH products are
 * summed, for the sake of rounding and of the cache. */
static void product(int64_t rows, int64_t columns, int64_t depth, const float *a, int64_t stride, const float *b,
                    float *c, int64_t c_stride)
{
    float ones[ROWS];
    for (int i = 0; i < ROWS; i++)
        ones[i] = 1;
    for (int64_t j = 0; j < columns; j += PANEL)
        for (int64_t k = 0; k < depth || !k; k += DEPTH) {
            const int64_t part = depth - k < DEPTH ? depth - k : DEPTH;
            for (int64_t i = 0; i < rows; i += ROWS) {
                const int some = rows - i < ROWS ? rows - i : ROWS;
                const float *x = a + i * stride + k, *y = b + j * depth + k * PANEL;
                if (k)
                    accumulate(some, part, x, stride, y, c + i * c_stride + j, c_stride, ones);
                else
                    multiply(some, part, x, stride, y, c + i * c_stride + j, c_stride);
            }
        }
}

/* New memory is had in far fewer pieces where the system has large pages for those who ask. */
static void ask_for_large_pages(float *from, size_t bytes)
{
#ifdef MADV_HUGEPAGE
    const uintptr_t page = 4096, first = ((uintptr_t)from + page - 1) / page * page;
    const uintptr_t last = ((uintptr_t)from + bytes) / page * page;
    if (bytes >= LARGE_BYTES)
        madvise((void *)first, last - first, MADV_HUGEPAGE);
#endif
}

/* Panels [columns / PANEL, padded, PANEL] of a matrix whose numbers stand `down` and `along` apart; what is missing of
 * whole panels and padded rows is zero. */
void pack(int64_t rows, int64_t columns, int64_t padded, const float *from, int64_t down, int64_t along, float *to)
{
    ask_for_large_pages(to, panels(columns) * padded * sizeof(float));
    for (int64_t j = 0; j < columns; j += PANEL, from += PANEL * along, to += padded * PANEL) {
        const int64_t some = at_most(columns - j, PANEL);
        if (some < PANEL)
            memset(to, 0, padded * PANEL * sizeof(float));
        else
            memset(to + rows * PANEL, 0, (padded - rows) * PANEL * sizeof(float));
        for (int64_t i = 0; i < rows; i += LANES) {
            const int64_t last = at_most(i + LANES, rows);
            if (along == 1)
                for (int64_t k = i; k < last; k++)
                    memcpy(to + k * PANEL, from + k * down, some * sizeof(float));
            else /* a line of memory at a time */
                for (int64_t column = 0; column < some; column++)
                    for (int64_t k = i; k < last; k++)
                        to[k * PANEL + column] = from[k * down + column * along];
        }
    }
}

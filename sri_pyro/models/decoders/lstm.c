/* log p(x | z) of an LSTM decoder and its z-gradient, weights fixed, from codes to gradients in one call.
 *
 * Single precision, on x86 processors with fused multiply-adds. A product computes ROWS rows by PANEL columns at a
 * time, whose sums stay in registers; the softmax follows its logits while these are in the nearest cache. A number
 * is summed in the same order wherever its row stands: neither threads nor batches change a result.
 *
 * R rows are chains, the draws of a sentence side by side, longest sentence first; those that are under way at a
 * token are the first ones. H units and V words are padded to whole panels: with zeros, and with biases of -inf.
 * A matrix of weights [K, N] comes as panels [N / PANEL, K, PANEL]. Gates: input, forget, output, candidate.
 */
#define REAL float
#include "vectors.h"

#if BYTES == 64 || (BYTES == 32 && defined(__FMA__))
#include <pthread.h>
#include <sys/mman.h>

#if BYTES == 64
#define ROWS 14
#else
#define ROWS 6
#endif
#define PANEL (2 * LANES)
#define BLOCK 512 /* words whose logits exist at once, for ROWS states, at most */
#define BLOCK_NUMBERS 65536 /* their output weights, at most */
#define STRIDE (BLOCK + LANES)
#define DEPTH 512
#define TOKENS 1024 /* of the rows that are computed together: what they keep stays in cache */
#define LEAST_ROWS (4 * ROWS)
#define MOST_NUMBERS (1 << 24)
#define MOST_THREADS 64
#define WORTH_A_THREAD 2e7 /* multiply-adds */
#define NEVER (-1e30f)
#define LARGE_BYTES (1 << 22)

int64_t panel(void) { return PANEL; }

static int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

/* The largest of a vector's numbers, and their sum. */
#define REDUCED(function, wide, x)                                                                                     \
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
    REDUCED(_mm_max_ps, , y)
}

static inline float added(vec x)
{
    const __m256 y = HALVED(_mm256_add_ps, x);
    REDUCED(_mm_add_ps, , y)
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
    ask_for_large_pages(to, (columns + PANEL - 1) / PANEL * PANEL * padded * sizeof(float));
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

typedef struct {
    int64_t draws, sentences, dim, units, steps, words, hidden_wiring, threads;
    const int64_t *order;               /* [sentences]: where each of the sorted sentences stands in the batch */
    const int64_t *counts;              /* [steps]: sentences under way */
    const float *begin, *end;           /* panels [dim, 5 units]: from z to gates and first state; and back */
    const float *start_bias;            /* [units] */
    const float *recurrent, *back;      /* panels [units, 4 units] and [4 units, units] */
    const float *logits, *means, *bias; /* panels [units, words] and [words, units]; [words] */
    const float *token;                 /* [tokens, 4 units]: what words add to the gates */
    const float *target_weight;         /* [tokens, units] */
    const float *target_bias;           /* [tokens] */
    const float *mask;                  /* [tokens, units], or none: factors of the states that predict */
    const float *z;                     /* [draws, sentences, dim] */
    float *value, *grad;                /* [draws, sentences]; [draws, sentences, dim], or none */
} Likelihood;

/* Room for the rows that are computed together. Rows of numbers stand a vector further apart than they are wide, or
 * those of a tile would fall on the same few places of the nearest cache. */
typedef struct {
    int64_t rows, dim, units, gates_width, sums_width;      /* how many rows fit, and how far apart they stand */
    float *z, *sums, *start, *first_cell, *later, *of_cell; /* for each row */
    float *gates, *cell, *squashed;                         /* for each token of the rows, or for one of each */
    float *states, *mean, *top, *total;                     /* for each token of the rows */
    float *logits;                                          /* for a tile */
} Room;

static int64_t panels(int64_t width) { return (width + PANEL - 1) / PANEL * PANEL; }

static float *take(float *base, int64_t *used, int64_t numbers)
{
    float *place = base ? base + *used : 0;
    *used += panels(numbers);
    return place;
}

/* Lays out the room of a thread; gives how many numbers it has. */
static int64_t lay_out(Room *r, const Likelihood *l, float *base)
{
    const int64_t all_rows = l->sentences * l->draws, units = l->units + LANES;
    const int64_t per_row = l->steps * 8 * units;
    int64_t rows = TOKENS / l->steps / ROWS * ROWS;
    rows = rows < LEAST_ROWS ? LEAST_ROWS : rows;
    while (rows > ROWS && rows * per_row > MOST_NUMBERS)
        rows -= ROWS;
    rows = at_most(rows, all_rows);
    const int64_t tokens = rows * l->steps, kept = l->grad ? tokens : rows;
    *r = (Room){.rows = rows,
                .dim = panels(l->dim) + LANES,
                .units = units,
                .gates_width = 4 * l->units + LANES,
                .sums_width = 5 * l->units + LANES};
    int64_t used = 0;
    r->z = take(base, &used, rows * r->dim);
    r->sums = take(base, &used, rows * r->sums_width);
    r->start = take(base, &used, rows * units);
    r->first_cell = take(base, &used, rows * units);
    r->later = take(base, &used, rows * units);
    r->of_cell = take(base, &used, rows * units);
    r->gates = take(base, &used, kept * r->gates_width);
    r->cell = take(base, &used, kept * units);
    r->squashed = take(base, &used, kept * units);
    r->states = take(base, &used, tokens * units);
    r->mean = take(base, &used, l->grad ? tokens * units : 0);
    r->top = take(base, &used, tokens);
    r->total = take(base, &used, tokens);
    r->logits = take(base, &used, ROWS * STRIDE);
    return used;
}

/* How many of some rows have a token at a time. */
static int64_t alive(const Likelihood *l, int64_t t, int64_t first, int64_t rows)
{
    const int64_t count = l->counts[t] * l->draws - first;
    return count < 0 ? 0 : at_most(count, rows);
}

/* Where a row's draw of its sentence stands among all [draws, sentences]. */
static int64_t place(const Likelihood *l, int64_t row)
{
    return row % l->draws * l->sentences + l->order[row / l->draws];
}

static void start(const Likelihood *l, const Room *r, int64_t first, int64_t rows)
{
    const int64_t units = l->units;
    for (int64_t i = 0; i < rows; i++)
        memcpy(r->z + i * r->dim, l->z + place(l, first + i) * l->dim, l->dim * sizeof(float));
    product(rows, 5 * units, l->dim, r->z, r->dim, l->begin, r->sums, r->sums_width);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t u = 0; u < units; u += LANES) {
            const vec state = load(r->sums + i * r->sums_width + 4 * units + u) + load(l->start_bias + u);
            store(r->start + i * r->units + u, l->hidden_wiring ? state : hyperbolic_tangent(state));
            store(r->first_cell + i * r->units + u, l->hidden_wiring ? all(0) : state);
        }
}

/* The cells of a panel of units in some rows, whose gates hold h W^T. */
static void cells(const Likelihood *l, const Room *r, int64_t rows, int64_t first, const float *token, int64_t u,
                  float *gates, const float *before, float *cell, float *squashed, float *states)
{
    const int64_t units = l->units;
    for (int64_t i = 0; i < rows; i++) {
        const float *t = token + (first + i) / l->draws * 4 * units + u, *z = r->sums + i * r->sums_width + u;
        float *g = gates + i * r->gates_width + u;
        vec x[4][2];
        /* First all gates, then the cells: what is done to a vector takes long, and they overlap. */
        for (int q = 0; q < 4; q++)
            for (int k = 0; k < 2; k++) {
                const int64_t at = q * units + k * LANES;
                const vec input = load(g + at) + (load(t + at) + load(z + at));
                x[q][k] = q < 3 ? sigmoid(input) : hyperbolic_tangent(input);
                store(g + at, x[q][k]);
            }
        for (int k = 0; k < 2; k++) {
            const int64_t at = i * r->units + u + k * LANES;
            const State s = cell_forward(x[0][k], x[1][k], x[2][k], x[3][k], load(before + at));
            store(cell + at, s.cell);
            store(squashed + at, s.squashed);
            store(states + at, s.hidden);
        }
    }
}

/* Through all tokens; gives how many there are. */
static int64_t forward(const Likelihood *l, const Room *r, int64_t first, int64_t rows)
{
    const int64_t units = l->units;
    const float *h = r->start, *before = r->first_cell, *token = l->token;
    int64_t tokens = 0, count;
    for (int64_t t = 0; t < l->steps && (count = alive(l, t, first, rows)); t++) {
        const int64_t kept = l->grad ? tokens : 0;
        float *gates = r->gates + kept * r->gates_width, *cell = r->cell + kept * r->units;
        float *squashed = r->squashed + kept * r->units, *states = r->states + tokens * r->units;
        for (int64_t u = 0; u < units; u += PANEL) {
            for (int64_t q = 0; q < 4; q++)
                product(count, PANEL, units, h, r->units, l->recurrent + (q * units + u) * units,
                        gates + q * units + u, r->gates_width);
            cells(l, r, count, first, token, u, gates, before, cell, squashed, states);
        }
        h = states, before = cell;
        token += l->counts[t] * 4 * units;
        tokens += count;
    }
    return tokens;
}

/* Logits of a tile of states and a block of words, as exponentials relative to the largest so far; factor: what
 * earlier ones are to be multiplied by. */
static void exponentials(const Likelihood *l, const Room *r, int rows, int64_t state, int64_t word, int64_t words,
                         float *factor)
{
    float change[2 * LANES] = {0}, *top = r->top + state, *total = r->total + state;
    vec most[ROWS];
    for (int i = 0; i < rows; i++)
        most[i] = all(top[i]);
    for (int64_t j = 0; j < words; j += PANEL)
        multiply_and_compare(rows, l->units, r->states + state * r->units, r->units, l->logits + (word + j) * l->units,
                             l->bias + word + j, r->logits + j, STRIDE, most);
    for (int i = 0; i < rows; i++) {
        const float before = top[i];
        top[i] = greatest(most[i]);
        change[i] = before - top[i];
    }
    for (int i = 0; i < rows; i += LANES)
        store(factor + i, share(load(change + i)));
    for (int i = 0; i < rows; i++) {
        vec sum[2] = {all(0), all(0)};
        for (int64_t j = 0; j < words; j += PANEL)
            for (int k = 0; k < 2; k++) {
                float *y = r->logits + i * STRIDE + j + k * LANES;
                const vec x = share(load(y) - top[i]);
                store(y, x);
                sum[k] += x;
            }
        total[i] = total[i] * factor[i] + added(sum[0] + sum[1]);
    }
}

/* Log-normalisers of the states, as the largest logit and the sum of exponentials relative to it; and where there is
 * to be a gradient the sums of the output weights, each times its word's exponential. */
static void softmax(const Likelihood *l, const Room *r, int64_t states)
{
    const int64_t units = l->units, width = r->units;
    for (int64_t i = 0; i < states; i++)
        r->top[i] = NEVER, r->total[i] = 0;
    if (l->grad)
        memset(r->mean, 0, states * width * sizeof(float));
    const int64_t fitting = BLOCK_NUMBERS / units / PANEL * PANEL;
    const int64_t block = fitting < PANEL ? PANEL : at_most(fitting, BLOCK);
    for (int64_t word = 0; word < l->words; word += block) {
        const int64_t words = at_most(block, l->words - word);
        for (int64_t i = 0; i < states; i += ROWS) {
            const int rows = at_most(ROWS, states - i);
            float factor[2 * LANES];
            exponentials(l, r, rows, i, word, words, factor);
            for (int64_t u = 0; l->grad && u < units; u += PANEL)
                accumulate(rows, words, r->logits, STRIDE, l->means + u * l->words + word * PANEL,
                           r->mean + i * width + u, width, factor);
        }
    }
}

/* Does something at every token of some rows: token is its index in the batch, at that among these rows. */
#define EACH_TOKEN(...)                                                                                                \
    for (int64_t t = 0, at = 0, before = 0, count; t < l->steps && (count = alive(l, t, first, rows));                 \
         before += l->counts[t++])                                                                                     \
        for (int64_t i = 0; i < count; i++, at++) {                                                                    \
            const int64_t token = before + (first + i) / l->draws;                                                     \
            __VA_ARGS__                                                                                                \
        }

static void drop(const Likelihood *l, const Room *r, int64_t first, int64_t rows)
{
    EACH_TOKEN(for (int64_t u = 0; u < l->units; u += LANES) {
        float *state = r->states + at * r->units + u;
        store(state, load(state) * load(l->mask + token * l->units + u));
    })
}

/* Log-likelihoods, and what each token adds to the gradient in its hidden state, in place of its mean. */
static void score(const Likelihood *l, const Room *r, int64_t first, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++)
        l->value[place(l, first + i)] = 0;
    EACH_TOKEN({
        const float *target = l->target_weight + token * l->units, *state = r->states + at * r->units;
        float *mean = r->mean + at * r->units;
        const float one_share = 1 / r->total[at];
        vec logit = all(0);
        for (int64_t u = 0; u < l->units; u += LANES) {
            logit += load(state + u) * load(target + u);
            if (l->grad) {
                const vec slope = load(target + u) - load(mean + u) * one_share;
                store(mean + u, l->mask ? slope * load(l->mask + token * l->units + u) : slope);
            }
        }
        l->value[place(l, first + i)] +=
            added(logit) + l->target_bias[token] - (r->top[at] + logf(r->total[at]));
    })
}

static void reverse(const Likelihood *l, const Room *r, int64_t first, int64_t rows, int64_t tokens)
{
    const int64_t units = l->units, width = r->units;
    memset(r->later, 0, rows * width * sizeof(float));
    memset(r->of_cell, 0, rows * width * sizeof(float));
    memset(r->sums, 0, rows * r->sums_width * sizeof(float));
    for (int64_t t = l->steps; t--;) {
        const int64_t count = alive(l, t, first, rows);
        if (!count)
            continue;
        tokens -= count;
        const float *before = t ? r->cell + (tokens - alive(l, t - 1, first, rows)) * width : r->first_cell;
        for (int64_t i = 0; i < count; i++) {
            float *g = r->gates + (tokens + i) * r->gates_width, *sum = r->sums + i * r->sums_width;
            for (int64_t u = 0; u < units; u += LANES) {
                const int64_t at = (tokens + i) * width + u, row = i * width + u;
                const Change d = cell_reverse(load(g + u), load(g + units + u), load(g + 2 * units + u),
                                              load(g + 3 * units + u), load(before + row), load(r->squashed + at),
                                              load(r->mean + at) + load(r->later + row), load(r->of_cell + row));
                const vec change[4] = {d.in, d.forget, d.out, d.candidate};
                store(r->of_cell + row, d.before);
                for (int64_t q = 0; q < 4; q++) {
                    store(g + q * units + u, change[q]);
                    store(sum + q * units + u, load(sum + q * units + u) + change[q]);
                }
            }
        }
        product(count, units, 4 * units, r->gates + tokens * r->gates_width, r->gates_width, l->back, r->later, width);
    }
}

/* From the gradients in gates and first states to those in z. */
static void finish(const Likelihood *l, const Room *r, int64_t first, int64_t rows)
{
    const int64_t units = l->units;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t u = 0; u < units; u += LANES) {
            const int64_t at = i * r->units + u;
            const vec h = load(r->start + at), of_h = load(r->later + at);
            store(r->sums + i * r->sums_width + 4 * units + u,
                  l->hidden_wiring ? of_h : load(r->of_cell + at) + of_h * (1 - h * h));
        }
    product(rows, panels(l->dim), 5 * units, r->sums, r->sums_width, l->end, r->z, r->dim);
    for (int64_t i = 0; i < rows; i++)
        memcpy(l->grad + place(l, first + i) * l->dim, r->z + i * r->dim, l->dim * sizeof(float));
}

typedef struct {
    const Likelihood *likelihood;
    float *room;
    int64_t first, last;
} Part;

static void *run_part(void *given)
{
    const Part *part = given;
    const Likelihood *l = part->likelihood;
    Room r;
    lay_out(&r, l, part->room);
    for (int64_t first = part->first; first < part->last; first += r.rows) {
        const int64_t rows = at_most(r.rows, part->last - first);
        start(l, &r, first, rows);
        const int64_t tokens = forward(l, &r, first, rows);
        if (l->mask)
            drop(l, &r, first, rows);
        softmax(l, &r, tokens);
        score(l, &r, first, rows);
        if (l->grad) {
            reverse(l, &r, first, rows, tokens);
            finish(l, &r, first, rows);
        }
    }
    return 0;
}

static int64_t threads(const Likelihood *l)
{
    double tokens = 0;
    for (int64_t t = 0; t < l->steps; t++)
        tokens += (double)l->counts[t] * l->draws;
    const double worth = tokens * l->units * (8.0 * l->units + 2.0 * l->words) / WORTH_A_THREAD;
    int64_t most = at_most(at_most(l->threads, MOST_THREADS), l->sentences * l->draws / ROWS);
    most = worth < most ? (int64_t)worth : most;
    return most < 1 ? 1 : most;
}

/* How many numbers of room `lstm_likelihood` needs. */
int64_t lstm_room(const Likelihood *l)
{
    Room r;
    return threads(l) * lay_out(&r, l, 0);
}

/* The log-likelihoods in nats, and their gradients where there is a place for them. */
void lstm_likelihood(const Likelihood *l, float *room)
{
    Room r;
    const int64_t number = threads(l), numbers = lay_out(&r, l, 0), rows = l->sentences * l->draws;
    int64_t tokens = 0, length = l->steps, done = 0, row = 0;
    for (int64_t t = 0; t < l->steps; t++)
        tokens += l->counts[t] * l->draws;
    Part parts[MOST_THREADS];
    pthread_t workers[MOST_THREADS];
    int started[MOST_THREADS] = {0};
    for (int64_t k = 0; k < number; k++) { /* about as many tokens for each */
        parts[k] = (Part){l, room + k * numbers, row, rows};
        for (; k + 1 < number && row < rows && done * number < tokens * (k + 1); row++) {
            while (l->counts[length - 1] * l->draws <= row)
                length--;
            done += length;
        }
        if (k + 1 < number)
            parts[k].last = row;
        started[k] = k + 1 < number && !pthread_create(workers + k, 0, run_part, parts + k);
        if (!started[k])
            run_part(parts + k);
    }
    for (int64_t k = 0; k < number; k++)
        if (started[k])
            pthread_join(workers[k], 0);
}
#else
int64_t panel(void) { return 0; } /* other processors have better products in PyTorch's libraries */
#endif

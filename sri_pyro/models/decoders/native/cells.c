/* The LSTM cell forward and in reverse, each in one pass over memory.
 *
 * Rows are chains, columns are units; a gate row holds the gates in the order input, forget, output, candidate, H
 * numbers each. Row r reads the token row r / draws. Every operation is per element, so that the result does not
 * depend on how rows are cut into calls.
 */
#include "vectors.h"

/* Does something to the vectors of a row: j is where each begins, n how many of its lanes there are. */
#define EACH_VECTOR(units, something)                                                                                  \
    {                                                                                                                  \
        int64_t j = 0;                                                                                                 \
        for (const int n = LANES; j + n <= (units); j += n)                                                            \
            something;                                                                                                 \
        const int64_t n = (units) - j;                                                                                 \
        if (n)                                                                                                         \
            something;                                                                                                 \
    }

INLINE vec some(const REAL *p, int64_t n)
{
    if (n == LANES)
        return load(p);
    vec x = {0};
    memcpy(&x, p, n * sizeof(REAL));
    return x;
}

INLINE void put(REAL *p, int64_t n, vec x)
{
    if (n == LANES)
        store(p, x);
    else
        memcpy(p, &x, n * sizeof(REAL));
}

INLINE void one_forward(const REAL *g, int64_t units, int64_t n, const REAL *before, REAL *cell, REAL *squashed,
                        REAL *hidden)
{
    const State s = cell_forward(some(g, n), some(g + units, n), some(g + 2 * units, n), some(g + 3 * units, n),
                                 some(before, n));
    put(cell, n, s.cell);
    put(squashed, n, s.squashed);
    put(hidden, n, s.hidden);
}

INLINE void one_reverse(REAL *g, int64_t units, int64_t n, const REAL *before, const REAL *squashed,
                        const REAL *hidden_grad, const REAL *later, REAL *cell_grad, REAL *total)
{
    const Change d =
        cell_reverse(some(g, n), some(g + units, n), some(g + 2 * units, n), some(g + 3 * units, n), some(before, n),
                     some(squashed, n), some(hidden_grad, n) + some(later, n), some(cell_grad, n));
    const vec change[4] = {d.in, d.forget, d.out, d.candidate};
    put(cell_grad, n, d.before);
    for (int q = 0; q < 4; q++) {
        put(g + q * units, n, change[q]);
        put(total + q * units, n, some(total + q * units, n) + change[q]);
    }
}

/* gates: h W^T on entry, the activations on exit. */
void lstm_forward(int64_t rows, int64_t units, int64_t draws, REAL *restrict gates, const REAL *restrict token,
                  const REAL *restrict code, const REAL *restrict before, REAL *restrict cell,
                  REAL *restrict squashed, REAL *restrict hidden)
{
    for (int64_t row = 0; row < rows; row++) {
        REAL *g = gates + row * 4 * units;
        const REAL *t = token + row / draws * 4 * units, *z = code + row * 4 * units;
        /* First every gate, then every cell: what is done to a vector takes long, and the vectors of one loop overlap. */
        EACH_VECTOR(3 * units, put(g + j, n, sigmoid(some(g + j, n) + (some(t + j, n) + some(z + j, n)))))
        g += 3 * units, t += 3 * units, z += 3 * units;
        EACH_VECTOR(units, put(g + j, n, hyperbolic_tangent(some(g + j, n) + (some(t + j, n) + some(z + j, n)))))
        g -= 3 * units;
        EACH_VECTOR(units, one_forward(g + j, units, n, before + row * units + j, cell + row * units + j,
                                       squashed + row * units + j, hidden + row * units + j))
    }
}

/* gates: the activations on entry, the gradient before them on exit; total: gains it. cell_grad: of c_t on entry,
 * of c_{t-1} on exit. hidden_grad is what step t itself contributes, later what the steps after it do. */
void lstm_reverse(int64_t rows, int64_t units, REAL *restrict gates, const REAL *restrict before,
                  const REAL *restrict squashed, const REAL *restrict hidden_grad, const REAL *restrict later,
                  REAL *restrict cell_grad, REAL *restrict total)
{
    for (int64_t row = 0; row < rows; row++) {
        REAL *g = gates + row * 4 * units, *t = total + row * 4 * units;
        const int64_t at = row * units;
        EACH_VECTOR(units, one_reverse(g + j, units, n, before + at + j, squashed + at + j, hidden_grad + at + j,
                                       later + at + j, cell_grad + at + j, t + j))
    }
}

/* The LSTM cell forward and in reverse, each in one pass over memory.
 *
 * Compiled with -DREAL=float or -DREAL=double. Rows are chains, columns are units; a gate row holds the gates
 * in the order input, forget, output, candidate, H numbers each. Row r reads the token row r / draws.
 * Every operation is per element, so that the result does not depend on how rows are cut into calls.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

/* exp(x) - 1. In single precision Taylor's polynomial on |r| <= log(2) / 2, whose next term is below an eighth
 * of an ulp, and no branch, so that compilers vectorise it; in double precision the C library's. */
static inline float expm1_float(float x)
{
    x = x < -87.0f ? -87.0f : x; /* comparisons with NaN are false: it passes through */
    x = x > 88.0f ? 88.0f : x;
    const float n = rintf(x * 1.44269504f);
    /* log(2) in two parts: the first has few bits, so that n times it is exact. */
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r * r + r;
    const int32_t bits = ((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return scale * p + (scale - 1.0f);
}

static inline double expm1_double(double x) { return expm1(x > 709.0 ? 709.0 : x); }

#define EXPM1(x) (sizeof(REAL) == sizeof(float) ? (REAL)expm1_float((float)(x)) : (REAL)expm1_double((double)(x)))

static inline REAL sigmoid(REAL x) { return 1 / (2 + EXPM1(-x)); }

static inline REAL hyperbolic_tangent(REAL x)
{
    x = x > 20 ? 20 : x; /* where it is 1 in both precisions; its square would overflow */
    const REAL e = EXPM1(2 * x);
    return e / (e + 2);
}

/* gates: h W^T on entry, the activations on exit. */
void lstm_forward(int64_t rows, int64_t units, int64_t draws, REAL *restrict gates, const REAL *restrict token,
                  const REAL *restrict code, const REAL *restrict before, REAL *restrict cell,
                  REAL *restrict squashed, REAL *restrict hidden)
{
    for (int64_t row = 0; row < rows; row++) {
        REAL *restrict g = gates + row * 4 * units;
        const REAL *restrict t = token + row / draws * 4 * units;
        const REAL *restrict z = code + row * 4 * units;
        for (int64_t j = 0; j < 3 * units; j++)
            g[j] = sigmoid(g[j] + (t[j] + z[j]));
        for (int64_t j = 3 * units; j < 4 * units; j++)
            g[j] = hyperbolic_tangent(g[j] + (t[j] + z[j]));
        const REAL *restrict c = before + row * units;
        for (int64_t j = 0; j < units; j++) {
            const REAL new = g[units + j] * c[j] + g[j] * g[3 * units + j];
            const REAL s = hyperbolic_tangent(new);
            cell[row * units + j] = new;
            squashed[row * units + j] = s;
            hidden[row * units + j] = g[2 * units + j] * s;
        }
    }
}

/* One row: every gate by a pointer of its own, which alone tells the compiler that none overlaps another. */
static inline void reverse_row(int64_t units, REAL *restrict gi, REAL *restrict gf, REAL *restrict go,
                               REAL *restrict ga, const REAL *restrict before, const REAL *restrict squashed,
                               const REAL *restrict hidden_grad, const REAL *restrict later,
                               REAL *restrict cell_grad, REAL *restrict ti, REAL *restrict tf,
                               REAL *restrict to, REAL *restrict ta)
{
    for (int64_t j = 0; j < units; j++) {
        const REAL i = gi[j], f = gf[j], o = go[j], a = ga[j], s = squashed[j];
        const REAL dh = hidden_grad[j] + later[j];
        const REAL dc = cell_grad[j] + dh * o * (1 - s * s);
        const REAL di = dc * a * (i * (1 - i));
        const REAL df = dc * before[j] * (f * (1 - f));
        const REAL dout = dh * s * (o * (1 - o));
        const REAL da = dc * i * (1 - a * a);
        cell_grad[j] = dc * f;
        gi[j] = di;
        gf[j] = df;
        go[j] = dout;
        ga[j] = da;
        ti[j] += di;
        tf[j] += df;
        to[j] += dout;
        ta[j] += da;
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
        reverse_row(units, g, g + units, g + 2 * units, g + 3 * units, before + at, squashed + at,
                    hidden_grad + at, later + at, cell_grad + at, t, t + units, t + 2 * units, t + 3 * units);
    }
}

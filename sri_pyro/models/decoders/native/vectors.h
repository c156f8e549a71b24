/* Vectors of numbers as wide as the processor has them, with the functions of an LSTM, for cells.c and lstm.c.
 *
 * Compiled with -DREAL=float or -DREAL=double, by GCC or Clang, whose vector types these are. Every function works
 * on each lane alone, and passes NaN through.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && !defined(NARROW)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
#if BYTES > 16
#include <immintrin.h>
#endif
#define LANES ((int)(BYTES / sizeof(REAL)))
#define INLINE static inline __attribute__((always_inline))

typedef REAL vec __attribute__((vector_size(BYTES)));
typedef int32_t ints __attribute__((vector_size(BYTES)));

INLINE vec load(const REAL *p)
{
    vec x;
    memcpy(&x, p, sizeof x);
    return x;
}

INLINE void store(REAL *p, vec x) { memcpy(p, &x, sizeof x); }

INLINE vec all(REAL x) { return x - (vec){0}; }

/* The larger and the smaller of two in single precision, the second if they cannot be compared. */
#if BYTES == 64
INLINE vec larger(vec a, vec b) { return (vec)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vec smaller(vec a, vec b) { return (vec)_mm512_min_ps((__m512)a, (__m512)b); }
#elif BYTES == 32
INLINE vec larger(vec a, vec b) { return (vec)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vec smaller(vec a, vec b) { return (vec)_mm256_min_ps((__m256)a, (__m256)b); }
#else
INLINE vec choose(ints mask, vec yes, vec no) { return (vec)((mask & (ints)yes) | (~mask & (ints)no)); }
INLINE vec larger(vec a, vec b) { return choose((ints)(a > b), a, b); }
INLINE vec smaller(vec a, vec b) { return choose((ints)(a < b), a, b); }
#endif

/* exp(x) - 1, and exp(x): in single precision 2^n (1 + p) with Taylor's polynomial p on |r| <= log(2) / 2, whose
 * next term is below an eighth of an ulp; in double precision the C library's. */
INLINE ints whole_part(vec x, vec *r)
{
    const vec shift = all(12582912); /* 1.5 * 2^23: adding it rounds to whole numbers */
    const vec shifted = x * (REAL)1.44269504f + shift, n = shifted - shift;
    /* log(2) in two parts: the first has few bits, so that n times it is exact. */
    *r = x - n * (REAL)0.693359375f + n * (REAL)2.12194440e-4f;
    return (ints)shifted << 23;
}

INLINE vec taylor(vec r)
{
    vec p = r * (REAL)(1.0 / 5040) + (REAL)(1.0 / 720);
    p = p * r + (REAL)(1.0 / 120);
    p = p * r + (REAL)(1.0 / 24);
    p = p * r + (REAL)(1.0 / 6);
    p = p * r + (REAL)0.5;
    return p * r * r + r;
}

#define EACH_LANE(function, x)                                                                                         \
    for (int lane = 0; lane < LANES; lane++)                                                                           \
        x[lane] = function(x[lane]);

INLINE vec exponential(vec x)
{
    if (sizeof(REAL) == sizeof(double)) {
        EACH_LANE(exp, x)
        return x;
    }
    vec r;
    const ints n = whole_part(smaller(all(88), larger(all(-87), x)), &r);
    return (vec)((ints)(taylor(r) + 1) + n);
}

/* exp(x) for x <= 0, and 0 where that would vanish beside 1: products of such small numbers take a hundred times as
 * long as others. */
INLINE vec share(vec x) { return (vec)((ints)exponential(x) & ~(ints)(x <= -60)); }

INLINE vec sigmoid(vec x) { return 1 / (1 + exponential(-x)); }

INLINE vec hyperbolic_tangent(vec x)
{
    if (sizeof(REAL) == sizeof(double)) {
        EACH_LANE(tanh, x)
        return x;
    }
    x = 2 * smaller(all(20), larger(all(-20), x)); /* where it is 1; its square would overflow */
    vec r;
    const ints n = whole_part(x, &r);
    const vec scale = (vec)((ints)all(1) + n);
    const vec e = scale * taylor(r) + (scale - 1);
    return e / (e + 2);
}

/* One vector of units of the cell, from its activations and c before: c, tanh c and h. */
typedef struct {
    vec cell, squashed, hidden;
} State;

INLINE State cell_forward(vec in, vec forget, vec out, vec candidate, vec before)
{
    const vec cell = forget * before + in * candidate, squashed = hyperbolic_tangent(cell);
    return (State){cell, squashed, out * squashed};
}

/* The gradients in the inputs of its gates and in c before, from those in h and (so far) in c. */
typedef struct {
    vec in, forget, out, candidate, before;
} Change;

INLINE Change cell_reverse(vec in, vec forget, vec out, vec candidate, vec before, vec squashed, vec dh, vec dc)
{
    dc += dh * out * (1 - squashed * squashed);
    return (Change){
        dc * candidate * (in * (1 - in)),
        dc * before * (forget * (1 - forget)),
        dh * squashed * (out * (1 - out)),
        dc * in * (1 - candidate * candidate),
        dc * forget,
    };
}

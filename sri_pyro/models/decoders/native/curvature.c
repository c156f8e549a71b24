/* The part of the Hessian of an LSTM's log p(x | z) in z that takes the time: tangents of every direction of z through
 * all tokens, the curvature of the cells and that of the softmax. lstm_hessian.py and lstm_sweeps.py say what they are.
 *
 * Single precision, on x86 processors with fused multiply-adds. The six tangents of a unit stand in blocks of H: those
 * of its gates in the order i, o, f, g, that of c, and that of c before. Chains are sorted, longest sentence first.
 */
#define REAL float
#include "vectors.h"

#if BYTES == 64 || (BYTES == 32 && defined(__FMA__))
#include "products.h"
#include "threads.h"

#define WORDS (8 * ROWS) /* whose logits' tangents exist at once */
#define WAITING 16       /* tokens that meet the output weights together */
#define CORNER 4

int64_t panel(void) { return PANEL; }

typedef struct {
    int64_t chains, dim, units, steps, words, cell_wiring, threads;
    const int64_t *alive;            /* [steps]: chains that have a token */
    const float *recurrent;          /* panels [units, 4 units] */
    const float *to_gates, *to_start; /* [dim, 4 units] and [dim, units]: what the directions add */
    const float *start_h;            /* [chains, units] */
    const float *gates, *first;      /* [steps, chains, 4 units]: values of the gates, derivatives in their inputs */
    const float *through;            /* [steps, chains, units]: of h in c */
    const float *square, *cross;     /* [steps, chains, 5 units] and 3 units: second derivatives, weighted */
    const float *law, *mean;         /* [tokens, words] and [tokens, units]: of the words, of their output weights */
    const float *mask;               /* [tokens, units] or none */
    const float *weight;             /* [words, units]: output weights */
    float *found;                    /* [chains, dim, dim]: gains what is computed */
} Curvature;

typedef struct {
    int64_t wide, units_width, bent_width, hidden_width; /* whole panels of directions, and how far rows stand apart */
    float *units, *bent;                                 /* for each direction */
    float *hidden;                                       /* for each direction */
    float *masked;                                       /* the same, as the softmax sees it */
    float *panels, *centres;                             /* for each token that waits */
    float *logits, *scaled;                              /* [WORDS, wide] */
    float *gram;                                         /* [wide, wide] */
    int64_t waiting, token[WAITING];
} Room;

static int64_t lay_out(Room *r, const Curvature *c, float *base)
{
    const int64_t H = c->units;
    int64_t used = 0;
    *r = (Room){.wide = panels(c->dim), .units_width = 6 * H + LANES, .bent_width = 5 * H + LANES,
                .hidden_width = H + LANES};
    r->units = take(base, &used, c->dim * r->units_width);
    r->bent = take(base, &used, c->dim * r->bent_width);
    r->hidden = take(base, &used, c->dim * r->hidden_width);
    r->masked = take(base, &used, c->dim * r->hidden_width);
    r->panels = take(base, &used, WAITING * r->wide * H);
    r->centres = take(base, &used, WAITING * r->wide);
    r->logits = take(base, &used, WORDS * r->wide);
    r->scaled = take(base, &used, WORDS * r->wide);
    r->gram = take(base, &used, r->wide * r->wide);
    return used;
}

static void begin(const Curvature *c, const Room *r, int64_t chain)
{
    const int64_t H = c->units;
    memset(r->units, 0, c->dim * r->units_width * sizeof(float));
    memset(r->gram, 0, r->wide * r->wide * sizeof(float));
    for (int64_t d = 0; d < c->dim; d++)
        for (int64_t u = 0; u < H; u += LANES) {
            const vec start = load(c->to_start + d * H + u), h = load(c->start_h + chain * H + u);
            store(r->hidden + d * r->hidden_width + u, c->cell_wiring ? start * (1 - h * h) : start);
            if (c->cell_wiring)
                store(r->units + d * r->units_width + 4 * H + u, start);
        }
}

/* Tangents of one more token, and those times their second derivatives; at: of the chain at that time. */
static void advance(const Curvature *c, const Room *r, int64_t at)
{
    const int64_t H = c->units;
    const float *gates = c->gates + at * 4 * H, *first = c->first + at * 4 * H, *through = c->through + at * H;
    const float *square = c->square + at * 5 * H, *cross = c->cross + at * 3 * H;
    product(c->dim, 4 * H, H, r->hidden, r->hidden_width, c->recurrent, r->units, r->units_width);
    for (int64_t d = 0; d < c->dim; d++) {
        float *x = r->units + d * r->units_width, *b = r->bent + d * r->bent_width;
        const float *added_to = c->to_gates + d * 4 * H;
        for (int64_t u = 0; u < H; u += LANES) {
            vec unit[6];
            for (int q = 0; q < 4; q++)
                unit[q] = load(x + q * H + u) + load(added_to + q * H + u);
            unit[5] = load(x + 4 * H + u);
            unit[4] = unit[5] * load(gates + 2 * H + u) + unit[0] * load(first + u) +
                      unit[2] * load(first + 2 * H + u) + unit[3] * load(first + 3 * H + u);
            store(r->hidden + d * r->hidden_width + u,
                  unit[4] * load(through + u) + unit[1] * load(first + H + u));
            for (int q = 0; q < 5; q++) {
                store(x + q * H + u, unit[q]);
                vec bent = unit[q] * load(square + q * H + u);
                if (q < 3) /* a mixed derivative enters once, at double weight: the answer is made symmetric */
                    bent += 2 * unit[q + 3] * load(cross + q * H + u);
                store(b + q * H + u, bent);
            }
        }
    }
}

/* found[d, e] += bent[d] . units[e] */
static void bend(const Curvature *c, const Room *r, float *found)
{
    const int64_t depth = 5 * c->units;
    for (int64_t d = 0; d < c->dim; d += CORNER)
        for (int64_t e = 0; e < c->dim; e += CORNER) {
            vec sums[CORNER][CORNER];
            const float *left[CORNER], *right[CORNER];
            for (int i = 0; i < CORNER; i++) {
                left[i] = r->bent + at_most(d + i, c->dim - 1) * r->bent_width;
                right[i] = r->units + at_most(e + i, c->dim - 1) * r->units_width;
                for (int j = 0; j < CORNER; j++)
                    sums[i][j] = all(0);
            }
            for (int64_t u = 0; u < depth; u += LANES)
#pragma GCC unroll 4
                for (int i = 0; i < CORNER; i++)
#pragma GCC unroll 4
                    for (int j = 0; j < CORNER; j++)
                        sums[i][j] += load(left[i] + u) * load(right[j] + u);
            for (int i = 0; i < CORNER && d + i < c->dim; i++)
                for (int j = 0; j < CORNER && e + j < c->dim; j++)
                    found[(d + i) * c->dim + e + j] += added(sums[i][j]);
        }
}

/* A token waits for the softmax. */
static void wait_for_softmax(const Curvature *c, Room *r, int64_t token)
{
    const int64_t H = c->units;
    float *centres = r->centres + r->waiting * r->wide;
    memset(centres, 0, r->wide * sizeof(float));
    for (int64_t d = 0; d < c->dim; d++) {
        const float *hidden = r->hidden + d * r->hidden_width;
        float *masked = r->masked + d * r->hidden_width;
        vec centre = all(0);
        for (int64_t u = 0; u < H; u += LANES) {
            const vec x = c->mask ? load(hidden + u) * load(c->mask + token * H + u) : load(hidden + u);
            store(masked + u, x);
            centre += x * load(c->mean + token * H + u);
        }
        centres[d] = -added(centre);
    }
    pack(H, c->dim, H, r->masked, 1, r->hidden_width, r->panels + r->waiting * r->wide * H);
    r->token[r->waiting++] = token;
}

/* c[i, :] += a[:, i] . b for a [depth, wide] and a panel b of as many rows. */
INLINE void add_transposed(const int rows, int64_t depth, const float *a, const float *b, int64_t wide, float *c)
{
    vec sums[ROWS][2];
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++) {
        sums[i][0] = all(0);
        sums[i][1] = all(0);
    }
    for (int64_t k = 0; k < depth; k++) {
        const vec left = load(b + k * wide), right = load(b + k * wide + LANES);
#pragma GCC unroll 14
        for (int i = 0; i < rows; i++) {
            const float x = a[k * wide + i];
            sums[i][0] += x * left;
            sums[i][1] += x * right;
        }
    }
#pragma GCC unroll 14
    for (int i = 0; i < rows; i++) {
        store(c + i * wide, load(c + i * wide) + sums[i][0]);
        store(c + i * wide + LANES, load(c + i * wide + LANES) + sums[i][1]);
    }
}

static __attribute__((noinline)) void multiply_from(int rows, int64_t depth, const float *a, const float *b,
                                                    const float *start, float *c, int64_t c_stride)
{
    KNOWING(rows, put_tile, depth, a, depth, b, start, c, c_stride, 0)
}

static __attribute__((noinline)) void accumulate_transposed(int rows, int64_t depth, const float *a, const float *b,
                                                            int64_t wide, float *c)
{
    KNOWING(rows, add_transposed, depth, a, b, wide, c)
}

/* The second moments of the logits' tangents under the law of every token that waits. */
static void spread(const Curvature *c, Room *r)
{
    const int64_t H = c->units, wide = r->wide;
    for (int64_t word = 0; word < c->words; word += WORDS) {
        const int64_t words = at_most(WORDS, c->words - word);
        for (int64_t w = 0; w < r->waiting; w++) {
            const float *law = c->law + r->token[w] * c->words + word;
            for (int64_t j = 0; j < wide; j += PANEL)
                for (int64_t i = 0; i < words; i += ROWS)
                    multiply_from(at_most(ROWS, words - i), H, c->weight + (word + i) * H,
                                  r->panels + w * wide * H + j * H, r->centres + w * wide + j,
                                  r->logits + i * wide + j, wide);
            for (int64_t i = 0; i < words; i++)
                for (int64_t j = 0; j < wide; j += LANES)
                    store(r->scaled + i * wide + j, load(r->logits + i * wide + j) * law[i]);
            for (int64_t j = 0; j < wide; j += PANEL)
                for (int64_t i = 0; i < c->dim; i += ROWS)
                    accumulate_transposed(at_most(ROWS, c->dim - i), words, r->scaled + i, r->logits + j, wide,
                                          r->gram + i * wide + j);
        }
    }
    r->waiting = 0;
}

typedef struct {
    const Curvature *curvature;
    int64_t first, last;
    float *room;
} Part;

static void *curvature_of(void *given)
{
    const Part *part = given;
    const Curvature *c = part->curvature;
    Room r;
    lay_out(&r, c, part->room);
    for (int64_t chain = part->first; chain < part->last; chain++) {
        float *found = c->found + chain * c->dim * c->dim;
        begin(c, &r, chain);
        for (int64_t t = 0, before = 0; t < c->steps && chain < c->alive[t]; before += c->alive[t++]) {
            advance(c, &r, t * c->chains + chain);
            bend(c, &r, found);
            wait_for_softmax(c, &r, before + chain);
            if (r.waiting == WAITING)
                spread(c, &r);
        }
        spread(c, &r);
        for (int64_t d = 0; d < c->dim; d++)
            for (int64_t e = 0; e < c->dim; e++)
                found[d * c->dim + e] -= r.gram[d * r.wide + e];
    }
    return 0;
}

static int64_t cut(const Curvature *c, Part *parts)
{
    int64_t tokens = 0;
    for (int64_t t = 0; t < c->steps; t++)
        tokens += c->alive[t];
    const double for_each = (double)c->dim * c->units * (c->words + 4.0 * c->units);
    const int64_t number = worth(tokens * for_each, c->threads, c->chains);
    for (int64_t k = 0; k < number; k++)
        parts[k] = (Part){c, c->chains * k / number, c->chains * (k + 1) / number, 0};
    return number;
}

/* How many numbers of room `curvature` needs. */
int64_t curvature_room(const Curvature *c)
{
    Part parts[MOST_THREADS];
    Room r;
    return cut(c, parts) * lay_out(&r, c, 0);
}

void curvature(const Curvature *c, float *room)
{
    Part parts[MOST_THREADS];
    Room r;
    const int64_t number = cut(c, parts), numbers = lay_out(&r, c, 0);
    for (int64_t k = 0; k < number; k++)
        parts[k].room = room + k * numbers;
    on_threads(curvature_of, parts, sizeof *parts, number);
}
#else
int64_t panel(void) { return 0; } /* other processors have better products in PyTorch's libraries */
#endif

/* Means and log-normalisers of a softmax layer for many hidden states, in single precision on x86 processors with
 * fused multiply-adds. */
#define REAL float
#include "vectors.h"

#if BYTES == 64 || (BYTES == 32 && defined(__FMA__))
#include "products.h"
#include "softmax.h"
#include "threads.h"

int64_t panel(void) { return PANEL; }

/* Some states of a layer, their means and log-normalisers. */
typedef struct {
    const Layer *layer;
    int64_t states;
    const float *state; /* [states, units] */
    float *mean, *normaliser, *room;
} Shares;

static void *shares_of(void *given)
{
    const Shares *s = given;
    const int64_t units = s->layer->units;
    float *total = s->room + panels(softmax_room(s->layer));
    softmax(s->layer, s->states, s->state, units, s->mean, s->normaliser, total, s->room);
    for (int64_t i = 0; i < s->states; i++) {
        const float share_of_one = 1 / total[i];
        for (int64_t u = 0; u < units; u += LANES)
            store(s->mean + i * units + u, load(s->mean + i * units + u) * share_of_one);
        s->normaliser[i] += logf(total[i]);
    }
    return 0;
}

/* How many numbers of room `attention` needs. */
int64_t attention_room(const Layer *l, int64_t states, int64_t threads)
{
    return at_most(threads, MOST_THREADS) * (panels(softmax_room(l)) + PANEL) + panels(states);
}

/* Mean output weights [states, units] and log-normalisers [states]. */
void attention(const Layer *l, int64_t states, const float *state, float *mean, float *normaliser, int64_t threads,
               float *room)
{
    Shares parts[MOST_THREADS];
    const int64_t tiles = (states + ROWS - 1) / ROWS;
    const int64_t number = worth(2.0 * states * l->units * l->words, threads, tiles);
    for (int64_t k = 0; k < number; k++) {
        const int64_t first = tiles * k / number * ROWS, last = at_most(tiles * (k + 1) / number * ROWS, states);
        parts[k] = (Shares){l, last - first, state + first * l->units, mean + first * l->units, normaliser + first,
                            room + k * (panels(softmax_room(l)) + PANEL) + panels(first)};
    }
    on_threads(shares_of, parts, sizeof *parts, number);
}
#else
int64_t panel(void) { return 0; } /* other processors have better products in PyTorch's libraries */
#endif

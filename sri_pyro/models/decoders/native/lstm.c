/* log p(x | z) of an LSTM decoder and its z-gradient, weights fixed, from codes to gradients in one call.
 *
 * Single precision, on x86 processors with fused multiply-adds. The softmax follows its logits while these are in
 * the nearest cache.
 *
 * R rows are chains, the draws of a sentence side by side, longest sentence first; those that are under way at a
 * token are the first ones. H units and V words are padded to whole panels: with zeros, and with biases of -inf.
 * Matrices of weights come as panels (products.h). Gates: input, forget, output, candidate.
 */
#define REAL float
#include "vectors.h"

#if BYTES == 64 || (BYTES == 32 && defined(__FMA__))
#include "products.h"
#include "softmax.h"
#include "threads.h"
#include "lstm_sweeps.h"

int64_t panel(void) { return PANEL; }

/* The rows of a thread, and its room, which has so many rows. */
typedef struct {
    const Likelihood *likelihood;
    int64_t first, last, rows;
    float *room;
} Part;

static void *likelihood_of(void *given)
{
    const Part *part = given;
    const Likelihood *l = part->likelihood;
    Room r;
    lay_out(&r, l, part->rows, part->room);
    for (int64_t first = part->first; first < part->last; first += r.rows) {
        const int64_t rows = at_most(r.rows, part->last - first);
        start(l, &r, first, rows);
        const int64_t tokens = forward(l, &r, first, rows);
        if (l->mask)
            drop(l, &r, first, rows);
        softmax(&l->layer, tokens, r.states, r.units, l->grad ? r.mean : 0, r.top, r.total, r.softmax);
        score(l, &r, first, rows);
        if (l->grad) {
            reverse(l, &r, first, rows, tokens);
            finish(l, &r, first, rows);
        }
    }
    return 0;
}

static void *states_of(void *given)
{
    const Part *part = given;
    const Likelihood *l = part->likelihood;
    const int64_t first = part->first, rows = part->last - first, units = l->layer.units;
    Room r;
    lay_out(&r, l, part->rows, part->room);
    start(l, &r, first, rows);
    forward(l, &r, first, rows);
    EACH_TOKEN(memcpy(l->states + (before * l->draws + first + i) * units, r.states + at * r.units,
                      units * sizeof(float)); (void)token;)
    return 0;
}

static void *gradient_of(void *given)
{
    const Part *part = given;
    const Likelihood *l = part->likelihood;
    const int64_t first = part->first, rows = part->last - first, units = l->layer.units;
    int64_t tokens = 0;
    Room r;
    lay_out(&r, l, part->rows, part->room);
    EACH_TOKEN(memcpy(r.mean + at * r.units, l->states + (before * l->draws + first + i) * units,
                      units * sizeof(float)); (void)token; tokens++;)
    reverse(l, &r, first, rows, tokens);
    finish(l, &r, first, rows);
    return 0;
}

/* Cuts the rows into parts of about as many tokens; gives how many there are. */
static int64_t cut(const Likelihood *l, Part *parts)
{
    const int64_t all_rows = l->sentences * l->draws, units = l->layer.units;
    int64_t tokens = 0, length = l->steps, done = 0, row = 0, most = 0;
    for (int64_t t = 0; t < l->steps; t++)
        tokens += l->counts[t] * l->draws;
    const double for_each = units * (8.0 * units + (l->states ? 0 : 2.0 * l->layer.words));
    const int64_t number = worth(tokens * for_each, l->threads, all_rows / ROWS);
    for (int64_t k = 0; k < number; k++) {
        parts[k] = (Part){l, row, all_rows, 0, 0};
        for (; k + 1 < number && row < all_rows && done * number < tokens * (k + 1); row++) {
            while (l->counts[length - 1] * l->draws <= row)
                length--;
            done += length;
        }
        if (k + 1 < number)
            parts[k].last = row;
        if (parts[k].last - parts[k].first > most)
            most = parts[k].last - parts[k].first;
    }
    for (int64_t k = 0; k < number; k++)
        parts[k].rows = l->states ? most : rows_together(l);
    return number;
}

/* How many numbers of room the functions below need. */
int64_t lstm_room(const Likelihood *l)
{
    Part parts[MOST_THREADS];
    Room r;
    const int64_t number = cut(l, parts);
    return number * lay_out(&r, l, parts->rows, 0);
}

static void each_part(const Likelihood *l, float *room, void *(*function)(void *))
{
    Part parts[MOST_THREADS];
    Room r;
    const int64_t number = cut(l, parts), numbers = lay_out(&r, l, parts->rows, 0);
    for (int64_t k = 0; k < number; k++)
        parts[k].room = room + k * numbers;
    on_threads(function, parts, sizeof *parts, number);
}

/* The log-likelihoods in nats, and their gradients where there is a place for them. */
void lstm_likelihood(const Likelihood *l, float *room) { each_part(l, room, likelihood_of); }

/* The two passes apart, for another softmax: first all hidden states; and, where these have been replaced by the
 * gradients in them and the room is as it was left, the gradients. */
void lstm_states(const Likelihood *l, float *room) { each_part(l, room, states_of); }
void lstm_gradient(const Likelihood *l, float *room) { each_part(l, room, gradient_of); }

#else
int64_t panel(void) { return 0; } /* other processors have better products in PyTorch's libraries */
#endif

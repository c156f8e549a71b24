/* An LSTM decoder on some rows, forward and in reverse: see lstm.c. */
#define TOKENS 1024 /* of the rows that are computed together: what they keep stays in cache */
#define LEAST_ROWS (4 * ROWS)
#define MOST_NUMBERS (1 << 24)

typedef struct {
    Layer layer;
    int64_t draws, sentences, dim, steps, hidden_wiring, threads;
    const int64_t *order;               /* [sentences]: where each of the sorted sentences stands in the batch */
    const int64_t *counts;              /* [steps]: sentences under way */
    const float *begin, *end;           /* panels [dim, 5 units]: from z to gates and first state; and back */
    const float *start_bias;            /* [units] */
    const float *recurrent, *back;      /* panels [units, 4 units] and [4 units, units] */
    const float *token;                 /* [tokens, 4 units]: what words add to the gates */
    const float *target_weight;         /* [tokens, units] */
    const float *target_bias;           /* [tokens] */
    const float *mask;                  /* [tokens, units], or none: factors of the states that predict */
    const float *z;                     /* [draws, sentences, dim] */
    float *value, *grad;                /* [draws, sentences]; [draws, sentences, dim], or none */
    float *states; /* [tokens draws, units]: of all tokens, to be had between the two passes; or none */
} Likelihood;

/* Room for the rows that are computed together. Rows of numbers stand a vector further apart than they are wide, or
 * those of a tile would fall on the same few places of the nearest cache. */
typedef struct {
    int64_t rows, dim, units, gates_width, sums_width;      /* how many rows fit, and how far apart they stand */
    float *z, *sums, *start, *first_cell, *later, *of_cell; /* for each row */
    float *gates, *cell, *squashed;                         /* for each token of the rows, or for one of each */
    float *states, *mean, *top, *total;                     /* for each token of the rows */
    float *softmax;                                         /* for that */
} Room;

/* How many rows are computed together, where they need not all be. */
static int64_t rows_together(const Likelihood *l)
{
    const int64_t per_row = l->steps * 8 * (l->layer.units + LANES);
    int64_t rows = TOKENS / l->steps / ROWS * ROWS;
    rows = rows < LEAST_ROWS ? LEAST_ROWS : rows;
    while (rows > ROWS && rows * per_row > MOST_NUMBERS)
        rows -= ROWS;
    return at_most(rows, l->sentences * l->draws);
}

/* Whether a reverse pass follows. The gradient alone does not tell: of no dimension it has no place. */
static int returns(const Likelihood *l) { return l->grad || l->states; }

/* Lays out a thread's room for so many rows; gives how many numbers it has. */
static int64_t lay_out(Room *r, const Likelihood *l, int64_t rows, float *base)
{
    const int64_t units = l->layer.units + LANES;
    const int64_t tokens = rows * l->steps, kept = returns(l) ? tokens : rows;
    *r = (Room){.rows = rows,
                .dim = panels(l->dim) + LANES,
                .units = units,
                .gates_width = 4 * l->layer.units + LANES,
                .sums_width = 5 * l->layer.units + LANES};
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
    r->mean = take(base, &used, returns(l) ? tokens * units : 0);
    r->top = take(base, &used, tokens);
    r->total = take(base, &used, tokens);
    r->softmax = take(base, &used, softmax_room(&l->layer));
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
    const int64_t units = l->layer.units;
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

/* The cells of some rows, whose gates hold h W^T. */
static void cells(const Likelihood *l, const Room *r, int64_t rows, int64_t first, const float *token, float *gates,
                  const float *before, float *cell, float *squashed, float *states)
{
    const int64_t units = l->layer.units;
    for (int64_t i = 0; i < rows; i++) {
        const float *t = token + (first + i) / l->draws * 4 * units, *z = r->sums + i * r->sums_width;
        float *g = gates + i * r->gates_width;
        /* First all gates, then all cells: what is done to a vector takes long, and those of one loop overlap. */
        for (int64_t u = 0; u < 3 * units; u += LANES)
            store(g + u, sigmoid(load(g + u) + (load(t + u) + load(z + u))));
        for (int64_t u = 3 * units; u < 4 * units; u += LANES)
            store(g + u, hyperbolic_tangent(load(g + u) + (load(t + u) + load(z + u))));
        for (int64_t u = 0; u < units; u += LANES) {
            const int64_t at = i * r->units + u;
            const State s = cell_forward(load(g + u), load(g + units + u), load(g + 2 * units + u),
                                         load(g + 3 * units + u), load(before + at));
            store(cell + at, s.cell);
            store(squashed + at, s.squashed);
            store(states + at, s.hidden);
        }
    }
}

/* Through all tokens; gives how many there are. */
static int64_t forward(const Likelihood *l, const Room *r, int64_t first, int64_t rows)
{
    const int64_t units = l->layer.units;
    const float *h = r->start, *before = r->first_cell, *token = l->token;
    int64_t tokens = 0, count;
    for (int64_t t = 0; t < l->steps && (count = alive(l, t, first, rows)); t++) {
        const int64_t kept = returns(l) ? tokens : 0;
        float *gates = r->gates + kept * r->gates_width, *cell = r->cell + kept * r->units;
        float *squashed = r->squashed + kept * r->units, *states = r->states + tokens * r->units;
        product(count, 4 * units, units, h, r->units, l->recurrent, gates, r->gates_width);
        cells(l, r, count, first, token, gates, before, cell, squashed, states);
        h = states, before = cell;
        token += l->counts[t] * 4 * units;
        tokens += count;
    }
    return tokens;
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
    EACH_TOKEN(for (int64_t u = 0; u < l->layer.units; u += LANES) {
        float *state = r->states + at * r->units + u;
        store(state, load(state) * load(l->mask + token * l->layer.units + u));
    })
}

/* Log-likelihoods, and what each token adds to the gradient in its hidden state, in place of its mean. */
static void score(const Likelihood *l, const Room *r, int64_t first, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++)
        l->value[place(l, first + i)] = 0;
    EACH_TOKEN({
        const float *target = l->target_weight + token * l->layer.units, *state = r->states + at * r->units;
        float *mean = r->mean + at * r->units;
        const float one_share = 1 / r->total[at];
        vec logit = all(0);
        for (int64_t u = 0; u < l->layer.units; u += LANES) {
            logit += load(state + u) * load(target + u);
            if (l->grad) {
                const vec slope = load(target + u) - load(mean + u) * one_share;
                store(mean + u, l->mask ? slope * load(l->mask + token * l->layer.units + u) : slope);
            }
        }
        l->value[place(l, first + i)] +=
            added(logit) + l->target_bias[token] - (r->top[at] + logf(r->total[at]));
    })
}

static void reverse(const Likelihood *l, const Room *r, int64_t first, int64_t rows, int64_t tokens)
{
    const int64_t units = l->layer.units, width = r->units;
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
    const int64_t units = l->layer.units;
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

/* The softmax layer: log-normalisers and mean output weights of hidden states, without a state-by-word matrix. */
#define BLOCK 512 /* words whose logits exist at once, for ROWS states, at most */
#define BLOCK_NUMBERS 65536 /* their output weights, at most */
#define STRIDE (BLOCK + LANES)
#define NEVER (-1e30f)

typedef struct {
    int64_t units, words;         /* padded to whole panels */
    int64_t hidden, vocabulary;   /* not padded */
    const float *bias;            /* [words] */
    const float *weight;          /* [vocabulary, hidden] */
    const float *logits, *means;  /* the same as panels [units, words] and [words, units]; or none, to be made by and by */
} Layer;

/* How many words are computed together. */
static int64_t block_of(const Layer *l)
{
    const int64_t fitting = BLOCK_NUMBERS / l->units / PANEL * PANEL;
    return fitting < PANEL ? PANEL : at_most(fitting, BLOCK);
}

/* How many numbers of room `softmax` needs. */
static int64_t softmax_room(const Layer *l)
{
    return ROWS * STRIDE + (l->logits ? 0 : 2 * l->units * block_of(l));
}

/* Logits of a tile of states and a block of words, as exponentials relative to the largest so far; factor: what
 * earlier ones are to be multiplied by. */
static void exponentials(const Layer *l, int rows, const float *states, int64_t stride, const float *weight,
                         int64_t word, int64_t words, float *logits, float *top, float *total, float *factor)
{
    float change[2 * LANES] = {0};
    vec most[ROWS];
    for (int i = 0; i < rows; i++)
        most[i] = all(top[i]);
    for (int64_t j = 0; j < words; j += PANEL)
        multiply_and_compare(rows, l->units, states, stride, weight + j * l->units, l->bias + word + j, logits + j, STRIDE,
                             most);
    for (int i = 0; i < rows; i++) {
        const float before = top[i];
        top[i] = greatest(most[i]);
        change[i] = before - top[i];
    }
    for (int i = 0; i < rows; i += LANES)
        store(factor + i, share(load(change + i)));
    for (int i = 0; i < rows; i++) {
        const vec largest = all(top[i]);
        vec left_sum = all(0), right_sum = all(0);
        float *y = logits + i * STRIDE;
        for (int64_t j = 0; j < words; j += PANEL) {
            const vec left = share(load(y + j) - largest), right = share(load(y + j + LANES) - largest);
            store(y + j, left);
            store(y + j + LANES, right);
            left_sum += left;
            right_sum += right;
        }
        total[i] = total[i] * factor[i] + added(left_sum + right_sum);
    }
}

/* Log-normalisers of some states, as the largest logit and the sum of exponentials relative to it; and if they are
 * wanted the sums of the output weights, each times its word's exponential. */
static void softmax(const Layer *l, int64_t number, const float *states, int64_t stride, float *mean, float *top,
                    float *total, float *room)
{
    for (int64_t i = 0; i < number; i++) {
        top[i] = NEVER, total[i] = 0;
        if (mean)
            memset(mean + i * stride, 0, l->units * sizeof(float));
    }
    const int64_t block = block_of(l), hidden = l->hidden;
    float *logits = room, *block_logits = room + ROWS * STRIDE, *block_means = block_logits + l->units * block;
    for (int64_t word = 0; word < l->words; word += block) {
        const int64_t words = at_most(block, l->words - word), depth = l->logits ? l->words : words;
        const float *to_logits = l->logits + word * l->units, *to_means = l->means + word * PANEL;
        if (!l->logits) {
            const float *weight = l->weight + word * hidden;
            const int64_t real = at_most(block, l->vocabulary - word);
            pack(hidden, real, l->units, weight, 1, hidden, block_logits);
            if (mean)
                pack(real, hidden, words, weight, hidden, 1, block_means);
            to_logits = block_logits, to_means = block_means;
        }
        for (int64_t i = 0; i < number; i += ROWS) {
            const int rows = at_most(ROWS, number - i);
            float factor[2 * LANES];
            exponentials(l, rows, states + i * stride, stride, to_logits, word, words, logits, top + i, total + i,
                         factor);
            for (int64_t u = 0; mean && u < l->units; u += PANEL)
                accumulate(rows, words, logits, STRIDE, to_means + u * depth, mean + i * stride + u, stride, factor);
        }
    }
}

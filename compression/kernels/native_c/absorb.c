/* Pass 2, second half: prediction + decoded residual is the new base; deltas and sums move on. */
INLINE float keep_int8(const stream_t *s, const tables_t *c, const float *from, int8_t *to, V most) {
    float largest = 0;
    for (int lane = 0; lane < LANES; lane++) largest = most[lane] > largest ? most[lane] : largest;
    const int kept = largest > c->smallest_top;
    const V inverse = splat(kept ? 127.0f / largest : 0);
    for (int64_t j = 0; j < s->stride; j += LANES) {
        const I steps = __builtin_convertvector(round_even(load(from + j) * inverse), I);
        const I8 narrow = __builtin_convertvector(__builtin_convertvector(steps, I16), I8);
        memcpy(to + j, &narrow, sizeof narrow);
    }
    return kept ? largest / 127.0f : 0;
}

/* Make prediction + coded (or, with `whole`, the row as it is) the new base, and write it out if asked to. */
INLINE void absorb_row(stream_t *s, const tables_t *c, const scratch_t *t, int64_t row, const float *coded, int whole,
                       int key_frame, void *x, int order, int base_format) {
    const history_t h = history_row(s, row, order, base_format);
    const float *first = column(s, t, FIRST), *second = column(s, t, SECOND);
    float *same = column(s, t, SUMS_BLOCK), *next = same + s->stride, *further = next + s->stride;
    float *new_base = base_format == FULL ? (float *)s->base + row * s->stride : column(s, t, NEW_BASE);
    float *new_delta = column(s, t, NEW_DELTA);
    const int oldest = order ? (s->newest + 1) % order : 0;
    V most_base = {0}, most_delta = {0};
    for (int64_t j = 0; j < s->stride; j += LANES) {
        V value = load(coded + j);
        if (whole) value = pick(magnitude(value) <= c->largest_value, value, (V){0});
        else value = (key_frame ? (V){0} : predicted(&h, first, second, j, order, base_format)) + value;
        if (base_format == INT8) most_base = larger(magnitude(value), most_base);
        if (order && !key_frame) {
            const V delta = value - old_base(&h, j, base_format), last = old_delta(&h, j, 0, base_format);
            store(same + j, load(same + j) + delta * delta);
            store(next + j, load(next + j) + delta * last);
            if (order > 1) store(further + j, load(further + j) + delta * old_delta(&h, j, 1, base_format));
            if (base_format == FULL) {
                narrow_bf16((uint16_t *)s->deltas[oldest] + row * s->stride + j, delta);
            } else {
                most_delta = larger(magnitude(delta), most_delta);
                store(new_delta + j, delta);
            }
        }
        store(new_base + j, value);
    }
    if (base_format == INT8) {
        s->base_scale[row] = keep_int8(s, c, new_base, (int8_t *)s->base + row * s->stride, most_base);
        if (order && !key_frame)
            s->delta_scales[oldest][row] =
                keep_int8(s, c, new_delta, (int8_t *)s->deltas[oldest] + row * s->stride, most_delta);
    }
    if (x) narrow_row(s, new_base, row, x);
    if (order && !key_frame && (row % BLOCK_ROWS == BLOCK_ROWS - 1 || row == s->rows - 1))
        close_block(s, column(s, t, SUMS), same, 3);
}

static void finish(stream_t *s, const tables_t *c, const scratch_t *t, int key_frame) {
    if (!s->order) return;
    if (key_frame) {
        const int64_t values = s->rows * s->stride;
        for (int age = 0; age < s->order; age++) {
            memset(s->deltas[age], 0, values * (s->base_format == FULL ? 2 : 1));
            if (s->base_format == INT8) memset(s->delta_scales[age], 0, s->rows * sizeof(float));
        }
        memset(s->sums, 0, 6 * s->stride * sizeof(float));
        s->newest = 0;
        return;
    }
    const float *fresh = column(s, t, SUMS), decay = c->decay[s->order];
    float *sums = s->sums;
    const int64_t n = s->stride;
    memcpy(sums + SAME_EARLIER * n, sums + SAME_BEFORE * n, n * sizeof *sums);
    memcpy(sums + SAME_BEFORE * n, sums + SAME_NOW * n, n * sizeof *sums);
    memcpy(sums + NEXT_BEFORE * n, sums + NEXT_NOW * n, n * sizeof *sums);
    for (int64_t j = 0; j < n; j++) {
        sums[SAME_NOW * n + j] = sums[SAME_NOW * n + j] * decay + fresh[j];
        sums[NEXT_NOW * n + j] = sums[NEXT_NOW * n + j] * decay + fresh[n + j];
        if (s->order > 1) sums[SECOND_NOW * n + j] = sums[SECOND_NOW * n + j] * decay + fresh[2 * n + j];
    }
    s->newest = (s->newest + 1) % s->order;
}

INLINE void move_rows(stream_t *s, const rung_t *g, const tables_t *c, const scratch_t *t, const void *from, int encode,
                      int key_frame, void *to, loss_t *lost, int order, int base_format) {
    for (int64_t row = 0; row < s->rows; row++) {
        const int whole = g->kind == RAW;
        const float *coded = column(s, t, CODED);
        if (whole) coded = wide_row(s, from, row, column(s, t, WIDE));
        else if (encode) coded_row(s, g, t, row, 1, lost);
        else coded_row(s, g, t, row, 0, lost);
        if (whole) absorb_row(s, c, t, row, coded, 1, key_frame, NULL, order, base_format);
        else if (key_frame) absorb_row(s, c, t, row, coded, 0, 1, to, order, base_format);
        else absorb_row(s, c, t, row, coded, 0, 0, to, order, base_format);
    }
}

static void move(stream_t *s, const rung_t *g, const tables_t *c, const scratch_t *t, const void *from, int encode,
                 int key_frame, void *to, loss_t *lost) {
    memset(column(s, t, SUMS), 0, 6 * s->stride * sizeof(float));
    DISPATCH(move_rows, s, g, c, t, from, encode, key_frame, to, lost);
    finish(s, c, t, key_frame);
}

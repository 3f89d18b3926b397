/* Pass 2, first half: a row of residuals becomes codes, codes become a row of decoded residuals. */
INLINE V level_at(I code, const V *levels, int count) {
    V value = levels[0];
    for (int k = 1; k < count; k++) value = pick(code >= k, levels[k], value);
    return value;
}

INLINE void few_levels_row(const stream_t *s, const rung_t *g, const scratch_t *t, int64_t row, int encode, int count,
                           loss_t *lost) {
    const float scale = t->row_b[row], *step = column(s, t, STEP), *inverse = column(s, t, INVERSE);
    const float *residual_row = t->residual + row * s->stride;
    float *coded_row = column(s, t, CODED);
    uint8_t *codes = t->codes + row * s->channels;
    V thresholds[MAX_LEVELS], levels[MAX_LEVELS], squares = {0};
    for (int k = 0; k < count; k++) {
        thresholds[k] = splat(k < count - 1 ? g->threshold[k] * scale : 0);
        levels[k] = splat(g->level[k] * scale);
    }
    for (int64_t j = 0; j < s->stride; j += LANES) {
        I code;
        if (encode) {
            const V scaled = load(residual_row + j) * load(inverse + j);
            code = (I){0};
            for (int k = 0; k < count - 1; k++) code -= scaled >= thresholds[k];
            store_codes(codes + j, code);
        } else {
            code = widen_codes(codes + j);
        }
        const V coded = level_at(code, levels, count) * load(step + j);
        store(coded_row + j, coded);
        if (encode) {
            const V error = load(residual_row + j) - coded;
            lose(error, &squares, lost);
        }
    }
    if (encode) lost->total += __builtin_convertvector(squares, D);
}

INLINE void integer_row(const stream_t *s, const rung_t *g, const scratch_t *t, int64_t row, int encode, loss_t *lost) {
    const float scale = t->row_b[row], *step = column(s, t, STEP), *residual_row = t->residual + row * s->stride;
    const V inverse = splat(scale > 0 ? 1.0f / scale : 0), high = splat((float)g->levels), low = -high;
    float *coded_row = column(s, t, CODED);
    uint8_t *codes = t->codes + row * s->channels;
    V squares = {0};
    for (int64_t j = 0; j < s->stride; j += LANES) {
        I code;
        if (encode) {
            V steps = round_even(load(residual_row + j) * inverse);
            steps = pick(steps < low, low, pick(steps > high, high, steps));
            code = __builtin_convertvector(steps, I) + g->levels;
            store_codes(codes + j, code);
        } else {
            code = widen_codes(codes + j);
        }
        const V coded = __builtin_convertvector(code - g->levels, V) * scale * load(step + j);
        store(coded_row + j, coded);
        if (encode) {
            const V error = load(residual_row + j) - coded;
            lose(error, &squares, lost);
        }
    }
    if (encode) lost->total += __builtin_convertvector(squares, D);
}

INLINE void coded_row(const stream_t *s, const rung_t *g, const scratch_t *t, int64_t row, int encode, loss_t *lost) {
    if (g->kind == PER_TOKEN) integer_row(s, g, t, row, encode, lost);
    else if (g->levels == 2) few_levels_row(s, g, t, row, encode, 2, lost);
    else if (g->levels == 3) few_levels_row(s, g, t, row, encode, 3, lost);
    else if (g->levels == 4) few_levels_row(s, g, t, row, encode, 4, lost);
    else few_levels_row(s, g, t, row, encode, MAX_LEVELS, lost);
}

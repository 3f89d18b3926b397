/* Rows in and out, what a stream remembers of a row, and what it predicts from it. */
/* Return the row as float32 padded with zeros, converted into `room` unless it can be read in place. */
static const float *wide_row(const stream_t *s, const void *x, int64_t row, float *room) {
    const int64_t first = row * s->channels;
    if (s->dtype == FLOAT32) {
        if (s->channels == s->stride) return (const float *)x + first;
        memcpy(room, (const float *)x + first, s->channels * sizeof *room);
    } else if (s->dtype == BFLOAT16) {
        const uint16_t *from = (const uint16_t *)x + first;
        for (int64_t j = 0; j < s->channels; j++) {
            uint32_t bits = (uint32_t)from[j] << 16;
            memcpy(room + j, &bits, sizeof bits);
        }
    } else {
        const _Float16 *from = (const _Float16 *)x + first;
        for (int64_t j = 0; j < s->channels; j++) room[j] = (float)from[j];
    }
    for (int64_t j = s->channels; j < s->stride; j++) room[j] = 0;
    return room;
}

static void narrow_row(const stream_t *s, const float *from, int64_t row, void *x) {
    const int64_t first = row * s->channels;
    if (s->dtype == FLOAT32) {
        memcpy((float *)x + first, from, s->channels * sizeof *from);
    } else if (s->dtype == BFLOAT16) {
        uint16_t *to = (uint16_t *)x + first;
        for (int64_t j = 0; j < s->channels; j++) {
            uint32_t bits;
            memcpy(&bits, from + j, sizeof bits);
            to[j] = (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
        }
    } else {
        _Float16 *to = (_Float16 *)x + first;
        for (int64_t j = 0; j < s->channels; j++) to[j] = (_Float16)from[j];
    }
}


typedef struct {
    const float *base_full;
    const int8_t *base_int8, *delta_int8[2];
    const uint16_t *delta_full[2];
    V base_scale, delta_scale[2];
} history_t;

INLINE history_t history_row(const stream_t *s, int64_t row, int order, int base_format) {
    history_t h = {0};
    const int64_t at = row * s->stride;
    if (base_format == FULL) {
        h.base_full = (const float *)s->base + at;
    } else {
        h.base_int8 = (const int8_t *)s->base + at;
        h.base_scale = splat(s->base_scale[row]);
    }
    for (int age = 0; age < order; age++) {
        const int index = (s->newest - age + order) % order;
        if (base_format == FULL) {
            h.delta_full[age] = (const uint16_t *)s->deltas[index] + at;
        } else {
            h.delta_int8[age] = (const int8_t *)s->deltas[index] + at;
            h.delta_scale[age] = splat(s->delta_scales[index][row]);
        }
    }
    return h;
}
INLINE V old_base(const history_t *h, int64_t j, int base_format) {
    return base_format == FULL ? load(h->base_full + j) : widen_int8(h->base_int8 + j) * h->base_scale;
}
INLINE V old_delta(const history_t *h, int64_t j, int age, int base_format) {
    return base_format == FULL ? widen_bf16(h->delta_full[age] + j)
                               : widen_int8(h->delta_int8[age] + j) * h->delta_scale[age];
}

INLINE V sane(V coefficient, I usable, float low, float high) {
    V known = pick(usable & (coefficient == coefficient), coefficient, (V){0});
    known = pick(known > low, known, splat(low));
    return pick(known > high, splat(high), known);
}

static void coefficients(const stream_t *s, const tables_t *c, const scratch_t *t) {
    float *first = column(s, t, FIRST), *second = column(s, t, SECOND);
    for (int64_t j = 0; j < s->stride && s->order; j += LANES) {
        const V before = load(s->sums + SAME_BEFORE * s->stride + j), next = load(s->sums + NEXT_NOW * s->stride + j);
        if (s->order == 1) {
            const I usable = (before > c->smallest_sum) & (before <= c->largest_sum);
            store(first + j, sane(next / before, usable, 0.0f, 1.0f) * c->damping);
            continue;
        }
        const V earlier = load(s->sums + SAME_EARLIER * s->stride + j);
        const V trace = before + earlier;
        const I usable = (trace > c->smallest_sum) & (trace <= c->largest_sum);
        const V s11 = before / trace + c->ridge, s22 = earlier / trace + c->ridge;
        const V s12 = load(s->sums + NEXT_BEFORE * s->stride + j) / trace;
        const V t1 = next / trace, t2 = load(s->sums + SECOND_NOW * s->stride + j) / trace;
        const V determinant = s11 * s22 - s12 * s12;
        store(first + j, sane((t1 * s22 - t2 * s12) / determinant, usable, -c->limit[0], c->limit[0]));
        store(second + j, sane((t2 * s11 - t1 * s12) / determinant, usable, -c->limit[1], c->limit[1]));
    }
}

INLINE V predicted(const history_t *h, const float *first, const float *second, int64_t j, int order, int base_format) {
    V value = old_base(h, j, base_format);
    if (order > 0) value = value + load(first + j) * old_delta(h, j, 0, base_format);
    if (order > 1) value = value + load(second + j) * old_delta(h, j, 1, base_format);
    return value;
}

/* Call `function` with order and base format as constants, so that its loops have no branches. */
#define DISPATCH(function, s, ...)                                                            \
    do {                                                                                      \
        if ((s)->base_format == FULL) {                                                       \
            if ((s)->order == 0) function(s, __VA_ARGS__, 0, FULL);                           \
            else if ((s)->order == 1) function(s, __VA_ARGS__, 1, FULL);                      \
            else function(s, __VA_ARGS__, 2, FULL);                                           \
        } else {                                                                              \
            if ((s)->order == 0) function(s, __VA_ARGS__, 0, INT8);                           \
            else if ((s)->order == 1) function(s, __VA_ARGS__, 1, INT8);                      \
            else function(s, __VA_ARGS__, 2, INT8);                                           \
        }                                                                                     \
    } while (0)

/* Below this energy of a tensor, squares are summed in double precision. */
#define QUIET 0x1p-60

/* Pass 1: residual, its moments, the tensor's energy; then the scales made of them. */
INLINE void measure_rows(const stream_t *s, const void *x, const scratch_t *t, int kind, int key_frame, double *energy,
                         int order, int base_format) {
    const float *first = column(s, t, FIRST), *second = column(s, t, SECOND);
    float *moment = column(s, t, MOMENT), *block = column(s, t, MOMENT_BLOCK), tile[LANES][LANES];
    D energies = {0};
    memset(moment, 0, 2 * s->stride * sizeof *moment);
    for (int64_t row = 0; row < s->rows; row++) {
        const float *wide = wide_row(s, x, row, column(s, t, WIDE));
        const history_t h = history_row(s, row, order, base_format);
        float *residual_row = t->residual + row * s->stride;
        V squares = {0}, moments = {0};
        for (int64_t j = 0; j < s->stride; j += LANES) {
            const V value = load(wide + j);
            const V residual = key_frame ? value : value - predicted(&h, first, second, j, order, base_format);
            store(residual_row + j, residual);
            squares += value * value;
            if (kind == PER_TOKEN) {
                moments = larger(magnitude(residual), moments);
            } else {
                const V contribution = kind == MEAN_MAGNITUDE ? magnitude(residual) : residual * residual;
                moments += contribution;
                store(block + j, load(block + j) + contribution);
            }
        }
        energies += __builtin_convertvector(squares, D);
        store(tile[row % LANES], moments);
        if (row % LANES == LANES - 1 || row == s->rows - 1) {
            float *sums = t->row_a + row / LANES * LANES;
            if (kind == PER_TOKEN) {
                for (int r = 0; r <= row % LANES; r++) {
                    float most = 0;
                    for (int lane = 0; lane < LANES; lane++) most = tile[r][lane] > most ? tile[r][lane] : most;
                    sums[r] = most;
                }
            } else {
                fold(tile, 8);
                fold(tile, 4);
                fold(tile, 2);
                fold(tile, 1);
                for (int r = 0; r <= row % LANES; r++) sums[r] = tile[r][0];
            }
        }
        if (kind != PER_TOKEN && (row % BLOCK_ROWS == BLOCK_ROWS - 1 || row == s->rows - 1)) close_block(s, moment, block, 1);
    }
    *energy = lane_total(energies);
}

/* Energy of a tensor whose squares leave float32's range. */
static double fine_energy(const stream_t *s, const void *x, const scratch_t *t) {
    double energy = 0;
    for (int64_t row = 0; row < s->rows; row++) {
        const float *wide = wide_row(s, x, row, column(s, t, WIDE));
        for (int64_t j = 0; j < s->channels; j++) energy += (double)wide[j] * (double)wide[j];
    }
    return energy;
}

static void measure(const stream_t *s, const void *x, const scratch_t *t, int kind, int key_frame, double *energy,
                    loss_t *lost) {
    if (kind == PER_TOKEN) DISPATCH(measure_rows, s, x, t, PER_TOKEN, key_frame, energy);
    else if (kind == MEAN_MAGNITUDE) DISPATCH(measure_rows, s, x, t, MEAN_MAGNITUDE, key_frame, energy);
    else DISPATCH(measure_rows, s, x, t, ROOT_MEAN_SQUARE, key_frame, energy);
    lost->fine = *energy < QUIET;
    if (lost->fine) *energy = fine_energy(s, x, t);
}


static void scale_codes(const float *values, float largest, int64_t count, const float *thresholds,
                        int per_octave, int upward, uint8_t *codes) {
    for (int64_t i = 0; i < count; i++) {
        const float ratio = values[i] / largest;
        uint32_t bits;
        memcpy(&bits, &ratio, sizeof bits);
        const int32_t exponent = (int32_t)(bits >> 23) - 126;
        bits = (bits & 0x7fffff) | 0x3f000000;
        float mantissa;
        memcpy(&mantissa, &bits, sizeof mantissa);
        int32_t code = 255 + per_octave * (exponent - 1);
        for (int k = 0; k < per_octave; k++) code += upward ? mantissa > thresholds[k] : mantissa >= thresholds[k];
        if (code < 1) code = upward;
        codes[i] = ratio > 0 ? (uint8_t)code : 0;
    }
}

static float largest_of(const float *values, int64_t count) {
    float most = 0;
    for (int64_t i = 0; i < count; i++) most = values[i] > most ? values[i] : most;
    return most;
}

/* Write top and scale codes into the payload; return 0 where the residual is beyond what the rung carries. */
static int write_scales(const stream_t *s, const rung_t *g, const tables_t *c, const scratch_t *t, uint8_t *payload) {
    const int64_t rows = s->rows, channels = s->channels, count = rows * channels;
    float *rows_moment = t->row_a, *columns_moment = column(s, t, MOMENT), top = 0;
    uint8_t *row_codes = payload + sizeof top, *column_codes = row_codes + rows;
    if (g->kind == PER_TOKEN) {
        const float largest = largest_of(rows_moment, rows);
        if (!(largest <= c->largest_total[g->kind])) return 0;
        top = largest / (float)g->levels;
        if (top > c->smallest_top) {
            scale_codes(rows_moment, largest, rows, c->upward, 16, 1, row_codes);
        } else {
            top = 0;
            memset(row_codes, 0, rows);
        }
        memcpy(payload, &top, sizeof top);
        return 1;
    }
    const float total = total_sum(rows_moment, rows);
    if (!(total <= c->largest_total[g->kind])) return 0;
    const float mean = count ? total / (float)count : 0;
    if (mean > c->smallest_mean) {
        const int squared = g->kind == ROOT_MEAN_SQUARE, per_octave = squared ? 8 : 16;
        const float *thresholds = squared ? c->nearest_square : c->nearest;
        for (int64_t i = 0; i < rows; i++) rows_moment[i] = rows_moment[i] / (float)channels;
        for (int64_t j = 0; j < channels; j++) columns_moment[j] = columns_moment[j] / (float)rows;
        const float largest_row = largest_of(rows_moment, rows), largest_column = largest_of(columns_moment, channels);
        top = largest_row * (largest_column / mean);
        if (squared) top = (float)sqrt((double)top);
        scale_codes(rows_moment, largest_row, rows, thresholds, per_octave, 0, row_codes);
        scale_codes(columns_moment, largest_column, channels, thresholds, per_octave, 0, column_codes);
    } else {
        memset(row_codes, 0, rows + channels);
    }
    memcpy(payload, &top, sizeof top);
    return 1;
}

static void read_scales(const stream_t *s, const rung_t *g, const tables_t *c, const scratch_t *t, const uint8_t *payload) {
    float top, *step = column(s, t, STEP), *inverse = column(s, t, INVERSE);
    const uint8_t *row_codes = payload + sizeof top, *column_codes = row_codes + s->rows;
    memcpy(&top, payload, sizeof top);
    for (int64_t i = 0; i < s->rows; i++) t->row_b[i] = top * c->step[row_codes[i]];
    for (int64_t j = 0; j < s->stride; j++) { /* padding: zero */
        const int code = j >= s->channels ? 0 : g->kind == PER_TOKEN ? 255 : column_codes[j];
        step[j] = c->step[code];
        inverse[j] = c->inverse_step[code];
    }
}

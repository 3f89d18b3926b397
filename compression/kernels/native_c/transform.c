/* Transform rungs, operation by operation as thinwire/compression/rungs/transform.py; rows and channels are not 0. */
enum { ROWS_AT_ONCE = 8, COLUMNS_AT_ONCE = 2, SAMPLED_EVERY_ROWS = 8 };
enum { LOUDNESS, EVEN, EVEN_BLOCK, AMPLITUDE, INVERSE_AMPLITUDE = AMPLITUDE + 4, CHOSEN = INVERSE_AMPLITUDE + 4,
       TRANSFORM_COLUMNS };

typedef struct {
    float *components; /* [rows, pitch], pitch = stride + 16 */
    float *decoded;    /* [2 * ROWS_AT_ONCE, pitch]: components, then values */
    float *columns;    /* [TRANSFORM_COLUMNS, pitch] */
    float *even;       /* [rows of a trellis block, pitch] */
    uint8_t *plane;    /* [rows * channels + 64] */
    int32_t *order, *natural, *start; /* [channels + 16] each */
    int16_t *loud_C;   /* [channels] */
    uint8_t *bits;     /* [channels] */
} transform_scratch_t;

typedef struct {
    stream_t *s;
    const basis_t *basis;
    const tables_t *c;
    const transform_tables_t *tc;
    const scratch_t *t;
    const transform_scratch_t *ts;
    int64_t pitch, coded, width[MAX_BITS]; /* width: components with more than b bits */
} job_t;

INLINE float *extra(const job_t *j, int which) { return j->ts->columns + which * j->pitch; }

/* Multiply `count` rows by `width` columns of a block's matrix: products are added to 0 in the order of k, or of `list`.
 * Terms that are zero change no sum, so a list may leave them out. */
INLINE void times_columns(const float *x, int64_t x_pitch, int64_t pitch, const float *matrix, int64_t padded, const int32_t *list,
                          int64_t terms, int64_t base, float *out, int count, int width) {
    V sum[ROWS_AT_ONCE][COLUMNS_AT_ONCE] = {{{0}}};
    for (int64_t term = 0; term < terms; term++) {
        const int64_t at = list ? list[term] : base + term;
        V weights[COLUMNS_AT_ONCE];
        for (int c = 0; c < width; c++) weights[c] = load(matrix + (at - base) * padded + c * LANES);
        for (int r = 0; r < count; r++)
            for (int c = 0; c < width; c++) sum[r][c] += x[r * x_pitch + at] * weights[c];
    }
    for (int r = 0; r < count; r++)
        for (int c = 0; c < width; c++) store(out + r * pitch + c * LANES, sum[r][c]);
}

/* What lies past a block is overwritten by the next one. */
INLINE void times(const job_t *j, const float *x, int64_t x_pitch, const float *matrices, int sparse, float *out, int count) {
    const basis_t *b = j->basis;
    for (int64_t block = 0; block < b->blocks; block++) {
        const int64_t start = sparse ? j->ts->start[block] : 0, end = sparse ? j->ts->start[block + 1] : b->size;
        const int32_t *list = sparse ? j->ts->natural + start : NULL;
        const int64_t base = block * b->size, wide = b->padded - b->padded % (COLUMNS_AT_ONCE * LANES);
        const float *matrix = matrices + base * b->padded;
        for (int64_t column = 0; column < wide; column += COLUMNS_AT_ONCE * LANES)
            times_columns(x, x_pitch, j->pitch, matrix + column, b->padded, list, end - start, base, out + base + column, count,
                          COLUMNS_AT_ONCE);
        if (wide < b->padded)
            times_columns(x, x_pitch, j->pitch, matrix + wide, b->padded, list, end - start, base, out + base + wide, count, 1);
    }
}

/* Mean squares of components, without the tokens' amplitudes if they are given: in the order of sums.py. */
static void column_energies(const job_t *j, const int16_t *token, float *energy, float *block) {
    const int64_t rows = j->s->rows, stride = j->s->stride;
    memset(energy, 0, stride * sizeof *energy);
    memset(block, 0, stride * sizeof *block);
    for (int64_t row = 0; row < rows; row++) {
        const float *y = j->ts->components + row * j->pitch;
        const V even = splat(token ? amplitude(j->tc, -token[row]) : 1);
        for (int64_t i = 0; i < stride; i += LANES) {
            const V value = load(y + i) * even;
            store(block + i, load(block + i) + value * value);
        }
        if (row % BLOCK_ROWS == BLOCK_ROWS - 1 || row == rows - 1) close_block(j->s, energy, block, 1);
    }
    for (int64_t i = 0; i < stride; i++) energy[i] = energy[i] / (float)rows;
}

/* How loud each token is over the components that are about to be coded: changes from the last frame, within 31. */
static void token_changes(const job_t *j, int64_t payload_bytes, int16_t *wanted) {
    const int64_t rows = j->s->rows, channels = j->s->channels;
    const int16_t *loud = j->ts->loud_C;
    float *factor = extra(j, LOUDNESS);
    int loudest = -AMPLITUDE_LIMIT;
    int64_t active = 0;
    bits_per_component(j->tc, loud, channels, rows, payload_bytes, j->ts->order, j->ts->bits);
    for (int64_t i = 0; i < channels; i++) loudest = loud[i] > loudest ? loud[i] : loudest;
    for (int64_t i = 0; i < j->s->stride; i++) {
        const int counts = i < channels && (j->ts->bits[i] || loud[i] == loudest);
        factor[i] = counts ? amplitude(j->tc, -loud[i]) : 0;
        active += counts;
    }
    for (int64_t row = 0; row < rows; row++) {
        const float *y = j->ts->components + row * j->pitch;
        V sum = {0};
        for (int64_t i = 0; i < j->s->stride; i += LANES) {
            const V even = load(y + i) * load(factor + i);
            sum += even * even;
        }
        float lanes[LANES];
        store(lanes, sum);
        for (int width = LANES / 2; width; width /= 2)
            for (int lane = 0; lane < width; lane++) lanes[lane] += lanes[lane + width];
        const int code = cut(energy_code(j->tc, lanes[0] / (float)active), TOKEN_LIMIT);
        wanted[row] = (int16_t)cut(code - j->basis->token_before[row], LARGEST_CHANGE);
    }
}

static int lower_median(const int16_t *values, int64_t count) {
    int64_t seen[4 * AMPLITUDE_LIMIT + 1] = {0}, below = 0;
    for (int64_t i = 0; i < count; i++) seen[values[i] + 2 * AMPLITUDE_LIMIT]++;
    for (int rank = 0;; rank++)
        if ((below += seen[rank]) > (count - 1) / 2) return rank - 2 * AMPLITUDE_LIMIT;
}

/* Measure and write the side information; return its bytes, or -1 beyond what the rung carries. */
static int64_t write_amplitudes(const job_t *j, uint8_t *payload, int64_t payload_bytes) {
    const basis_t *b = j->basis;
    const int64_t rows = j->s->rows, channels = j->s->channels;
    float *energy = extra(j, EVEN), *block = extra(j, EVEN_BLOCK);
    int16_t *wanted = (int16_t *)j->ts->plane, *own_R = b->token, *own_C = b->component;
    int k_token, k_component;
    column_energies(j, NULL, energy, block);
    for (int64_t i = 0; i < channels; i++) {
        if (!(energy[i] <= j->tc->largest_energy)) return -1;
        j->ts->loud_C[i] = (int16_t)energy_code(j->tc, energy[i]);
    }
    int64_t room_bits = 8 * (payload_bytes / 2 - LEADER_BYTES);
    if (room_bits < rows + channels) room_bits = rows + channels;
    token_changes(j, payload_bytes, wanted);
    const int64_t token_bits = affordable(wanted, own_R, rows, rows + (room_bits - rows - channels) / 2, &k_token);
    for (int64_t row = 0; row < rows; row++) own_R[row] += b->token_before[row];
    column_energies(j, own_R, energy, block);
    for (int64_t i = 0; i < channels; i++) wanted[i] = (int16_t)(energy_code(j->tc, energy[i]) - b->component_before[i]);
    const int16_t common = (int16_t)lower_median(wanted, channels);
    for (int64_t i = 0; i < channels; i++) wanted[i] = (int16_t)cut(wanted[i] - common, LARGEST_CHANGE);
    affordable(wanted, own_C, channels, room_bits - token_bits, &k_component);
    const uint16_t tag = (uint16_t)b->tag;
    memcpy(payload, &tag, 2);
    memcpy(payload + 2, &common, 2);
    payload[4] = (uint8_t)k_component;
    payload[5] = (uint8_t)k_token;
    int64_t at = write_rice(payload + LEADER_BYTES, 0, own_C, channels, k_component);
    for (int64_t row = 0; row < rows; row++) wanted[row] = own_R[row] - b->token_before[row];
    at = write_rice(payload + LEADER_BYTES, at, wanted, rows, k_token);
    for (int64_t i = 0; i < channels; i++)
        own_C[i] = (int16_t)cut(b->component_before[i] + common + own_C[i], AMPLITUDE_LIMIT);
    return LEADER_BYTES + (at + 7) / 8;
}

/* Read the side information; return its bytes, or -1 where no encoder could have written it. */
static int64_t read_amplitudes(const job_t *j, const uint8_t *payload, int64_t payload_bytes) {
    const basis_t *b = j->basis;
    const int64_t rows = j->s->rows, channels = j->s->channels, end = 8 * (payload_bytes - LEADER_BYTES);
    const uint8_t *bytes = payload + LEADER_BYTES;
    uint16_t tag;
    int16_t common;
    memcpy(&tag, payload, 2);
    memcpy(&common, payload + 2, 2);
    if (tag != b->tag || payload[4] > MAX_PARAMETER || payload[5] > MAX_PARAMETER) return -1;
    int64_t at = read_rice(bytes, 0, end, b->component, channels, payload[4]);
    if (at >= 0) at = read_rice(bytes, at, end, b->token, rows, payload[5]);
    if (at < 0) return -1;
    for (; at & 7; at++)
        if (bytes[at >> 3] >> (at & 7) & 1) return -1;
    for (int64_t i = 0; i < channels; i++)
        b->component[i] = (int16_t)cut(b->component_before[i] + common + b->component[i], AMPLITUDE_LIMIT);
    for (int64_t row = 0; row < rows; row++) {
        b->token[row] += b->token_before[row];
        if (b->token[row] > TOKEN_LIMIT || b->token[row] < -TOKEN_LIMIT) return -1;
    }
    return LEADER_BYTES + at / 8;
}

/* From amplitudes and bytes: who is coded, in which order, with how many bits, and at what amplitude. */
static void allocate(job_t *j, int64_t available_bytes) {
    const transform_scratch_t *ts = j->ts;
    const int64_t channels = j->s->channels;
    int64_t block = 0, coded = 0;
    bits_per_component(j->tc, j->basis->component, channels, j->s->rows, available_bytes, ts->order, ts->bits);
    for (int64_t i = 0; i < channels; i++) {
        if (i == block * j->basis->size) ts->start[block++] = (int32_t)coded;
        if (ts->bits[i]) ts->natural[coded++] = (int32_t)i;
    }
    ts->start[block] = (int32_t)coded;
    j->coded = 0;
    for (int bits = MAX_BITS; bits > 0; bits--) {
        for (int64_t i = 0; i < channels; i++)
            if (ts->bits[i] == bits) ts->order[j->coded++] = (int32_t)i;
        j->width[bits - 1] = j->coded;
    }
    for (int quarter = 0; quarter < 4; quarter++)
        for (int64_t i = 0; i < j->coded; i++) {
            const int code = j->basis->component[ts->order[i]];
            extra(j, AMPLITUDE + quarter)[i] = amplitude(j->tc, quarter + code);
            extra(j, INVERSE_AMPLITUDE + quarter)[i] = amplitude(j->tc, quarter - code);
        }
}

static void quantise_components(const job_t *j) {
    const int64_t coded = j->coded, rows = j->s->rows;
    const int32_t *order = j->ts->order;
    float weight[TRELLIS_BLOCK_ROWS];
    for (int64_t first = 0; first < rows; first += TRELLIS_BLOCK_ROWS) {
        const int count = (int)(rows - first < TRELLIS_BLOCK_ROWS ? rows - first : TRELLIS_BLOCK_ROWS);
        uint8_t *codes = j->t->codes + first * coded;
        for (int row = 0; row < count; row++) {
            const float *y = j->ts->components + (first + row) * j->pitch;
            float *u = j->ts->even + row * j->pitch;
            const int token = -j->basis->token[first + row];
            const float *inverse = extra(j, INVERSE_AMPLITUDE + (token & 3)), octaves = power_of_two(token >> 2);
            for (int64_t i = 0; i < coded; i++) u[i] = y[order[i]] * (inverse[i] * octaves);
            weight[row] = amplitude(j->tc, -2 * token);
        }
        int64_t from = 0;
        for (int bits = MAX_BITS; bits > 0; bits--) {
            const int64_t to = j->width[bits - 1];
            for (int64_t i = from; i < to; i += LANES)
                best_path(j->ts->even + i, j->pitch, weight, count, j->tc, bits, codes + i, coded,
                          (int)(to - i < LANES ? to - i : LANES));
            from = to;
        }
    }
}

static void pack_planes(const job_t *j, uint8_t *out) {
    const int64_t rows = j->s->rows, coded = j->coded;
    uint8_t *plane = j->ts->plane;
    for (int b = 0; b < MAX_BITS && j->width[b]; b++) {
        const int64_t width = j->width[b], count = rows * width, bytes = (count + 7) / 8;
        for (int64_t row = 0; row < rows; row++) memcpy(plane + row * width, j->t->codes + row * coded, width);
        memset(plane + count, 0, 16);
        pack_bits(plane, bytes, 1, b, out);
        out += bytes;
    }
}

/* Return 0 where no encoder could have written the bytes; zeros must follow up to `end`. */
static int unpack_planes(const job_t *j, const uint8_t *in, const uint8_t *end) {
    const int64_t rows = j->s->rows, coded = j->coded;
    uint8_t *plane = j->ts->plane, beyond = 0;
    memset(j->t->codes, 0, rows * coded);
    for (int b = 0; b < MAX_BITS && j->width[b]; b++) {
        const int64_t width = j->width[b], count = rows * width, bytes = (count + 7) / 8;
        unpack_bits(in, bytes, 1, 0, plane);
        for (int64_t k = count; k < 8 * bytes; k++) beyond |= plane[k];
        for (int64_t row = 0; row < rows; row++)
            for (int64_t i = 0; i < width; i++) j->t->codes[row * coded + i] |= (uint8_t)(plane[row * width + i] << b);
        in += bytes;
    }
    for (; in < end; in++) beyond |= *in;
    return !beyond;
}

/* Codes of one row into components, in their places; places without bits are never read. */
static void restore(const job_t *j, int64_t row, float *y) {
    const uint8_t *codes = j->t->codes + row * j->coded;
    const int32_t *order = j->ts->order;
    const int token = j->basis->token[row];
    const int64_t past = row % TRELLIS_BLOCK_ROWS;
    const float *amplitudes = extra(j, AMPLITUDE + (token & 3)), octaves = power_of_two(token >> 2);
    const uint8_t *one = past > 0 ? codes - j->coded : NULL;
    const uint8_t *two = past > 1 ? codes - 2 * j->coded : NULL, *three = past > 2 ? codes - 3 * j->coded : NULL;
    int64_t i = 0;
    for (int bits = MAX_BITS; bits > 0; bits--)
        for (; i < j->width[bits - 1]; i++) {
            const int index = level_index(codes[i], one ? one[i] : 0, two ? two[i] : 0, three ? three[i] : 0);
            y[order[i]] = j->tc->level[bits][index] * (amplitudes[i] * octaves);
        }
}

/* lost: squares of errors; cost: the same in components, where an error costs alike in every direction. */
INLINE void transform_rows(stream_t *s, const job_t *j, int encode, int key_frame, void *to, loss_t *lost, loss_t *cost,
                           int order, int base_format) {
    float *y = j->ts->decoded, *values = y + ROWS_AT_ONCE * j->pitch;
    for (int64_t first = 0; first < s->rows; first += ROWS_AT_ONCE) {
        const int64_t left = s->rows - first, count = left < ROWS_AT_ONCE ? left : ROWS_AT_ONCE;
        for (int64_t r = 0; r < count; r++) {
            float *row = y + r * j->pitch;
            if (encode) memset(row, 0, s->stride * sizeof *row);
            restore(j, first + r, row);
            if (!encode) continue;
            const float *components = j->ts->components + (first + r) * j->pitch;
            V squares = {0};
            for (int64_t i = 0; i < s->stride; i += LANES) lose(load(components + i) - load(row + i), &squares, cost);
            cost->total += __builtin_convertvector(squares, D);
        }
        times(j, y, j->pitch, j->basis->inverse, 1, values, ROWS_AT_ONCE);
        for (int64_t r = 0; r < count; r++) {
            float *coded = values + r * j->pitch;
            for (int64_t i = s->channels; i < s->stride; i++) coded[i] = 0;
            if (encode) {
                const float *residual = j->t->residual + (first + r) * s->stride;
                V squares = {0};
                for (int64_t i = 0; i < s->stride; i += LANES) {
                    const V error = load(residual + i) - load(coded + i);
                    lose(error, &squares, lost);
                }
                lost->total += __builtin_convertvector(squares, D);
            }
            if (key_frame) absorb_row(s, j->c, j->t, first + r, coded, 0, 1, to, order, base_format);
            else absorb_row(s, j->c, j->t, first + r, coded, 0, 0, to, order, base_format);
        }
    }
}

static void transform_move(const job_t *j, int encode, int key_frame, void *to, loss_t *lost, loss_t *cost) {
    stream_t *s = j->s;
    memset(column(s, j->t, SUMS), 0, 6 * s->stride * sizeof(float));
    DISPATCH(transform_rows, s, j, encode, key_frame, to, lost, cost);
    finish(s, j->c, j->t, key_frame);
}

/* What the tensor itself would cost, from every eighth row; `cost` says whether squares must be fine. */
static double whole_cost(const job_t *j, const void *x, loss_t *cost) {
    const stream_t *s = j->s;
    float *components = j->ts->decoded;
    int64_t rows = 0;
    for (int64_t row = 0; row < s->rows; row += SAMPLED_EVERY_ROWS, rows++) {
        times(j, wide_row(s, x, row, column(s, j->t, WIDE)), s->stride, j->basis->forward, 0, components, 1);
        for (int64_t i = s->channels; i < s->stride; i++) components[i] = 0;
        V squares = {0};
        for (int64_t i = 0; i < s->stride; i += LANES) lose(load(components + i), &squares, cost);
        cost->total += __builtin_convertvector(squares, D);
    }
    return lane_total(cost->total) * (double)s->rows / (double)rows;
}

static void transform_components(const job_t *j) {
    const int64_t rows = j->s->rows, stride = j->s->stride;
    int64_t row = 0;
    for (; row + ROWS_AT_ONCE <= rows; row += ROWS_AT_ONCE)
        times(j, j->t->residual + row * stride, stride, j->basis->forward, 0, j->ts->components + row * j->pitch, ROWS_AT_ONCE);
    for (; row < rows; row++)
        times(j, j->t->residual + row * stride, stride, j->basis->forward, 0, j->ts->components + row * j->pitch, 1);
    for (row = 0; row < rows; row++)
        for (int64_t i = j->s->channels; i < stride; i++) j->ts->components[row * j->pitch + i] = 0;
}

int thinwire_transform_encode(stream_t *s, const basis_t *basis, const tables_t *c, const transform_tables_t *tc,
                              const scratch_t *t, const transform_scratch_t *ts, const void *x, const uint8_t *header,
                              uint8_t *frame, int64_t payload_bytes, int key_frame, double *relative_error) {
    job_t j = {.s = s, .basis = basis, .c = c, .tc = tc, .t = t, .ts = ts, .pitch = s->stride + LANES};
    uint8_t *payload = frame + HEADER_BYTES;
    double energy = 0;
    loss_t lost = {0};
    if (!key_frame) coefficients(s, c, t);
    measure(s, x, t, PER_TOKEN, key_frame, &energy, &lost);
    if (!(energy <= (double)c->largest_total[ROOT_MEAN_SQUARE])) return NOT_FINITE;
    transform_components(&j);
    memset(payload, 0, payload_bytes);
    const int64_t side_bytes = write_amplitudes(&j, payload, payload_bytes);
    if (side_bytes < 0) return NOT_FINITE;
    allocate(&j, payload_bytes - side_bytes);
    quantise_components(&j);
    pack_planes(&j, payload + side_bytes);
    loss_t cost = {.fine = lost.fine}, whole = {.fine = lost.fine};
    const double all = whole_cost(&j, x, &whole);
    transform_move(&j, 1, key_frame, NULL, &lost, &cost);
    const uint32_t crc = crc32(c, payload, payload_bytes);
    memcpy(frame, header, CHECKED_BYTES);
    memcpy(frame + CHECKED_BYTES, &crc, sizeof crc);
    *relative_error = all > 0 ? sqrt(lane_total(cost.total) / all) : energy > 0 ? sqrt(lane_total(lost.total) / energy) : 0;
    return DONE;
}

int thinwire_transform_decode(stream_t *s, const basis_t *basis, const tables_t *c, const transform_tables_t *tc,
                              const scratch_t *t, const transform_scratch_t *ts, const uint8_t *frame,
                              const uint8_t *header, void *x, int64_t payload_bytes, int key_frame) {
    job_t j = {.s = s, .basis = basis, .c = c, .tc = tc, .t = t, .ts = ts, .pitch = s->stride + LANES};
    const uint8_t *payload = frame + HEADER_BYTES;
    uint32_t promised;
    loss_t lost = {0};
    if (memcmp(frame, header, CHECKED_BYTES)) return WRONG_HEADER;
    memcpy(&promised, frame + CHECKED_BYTES, sizeof promised);
    if (crc32(c, payload, payload_bytes) != promised) return WRONG_CRC;
    const int64_t side_bytes = read_amplitudes(&j, payload, payload_bytes);
    if (side_bytes < 0) return WRONG_PAYLOAD;
    allocate(&j, payload_bytes - side_bytes);
    if (!unpack_planes(&j, payload + side_bytes, payload + payload_bytes)) return WRONG_PAYLOAD;
    if (!key_frame) coefficients(s, c, t);
    transform_move(&j, 0, key_frame, x, &lost, &lost);
    return DONE;
}

/* The native kernel: the eager reference's arithmetic, operation by operation, in few passes over memory.
 *
 * Vectors of 16 lanes are written with the compilers' vector extension, so that every SIMD width computes the same
 * float32 bits: sums run in the order of thinwire/compression/sums.py, nothing is contracted or reassociated
 * (-ffp-contract=off). Pass 1 predicts, subtracts and measures; pass 2 quantises, reconstructs and moves base, deltas and
 * sums; packing follows. A call changes nothing unless it returns DONE.
 */
#include "layout.c"
#include "vectors.c"
#include "sums.c"
#include "history.c"
#include "measure.c"
#include "quantise.c"
#include "absorb.c"
#include "packing.c"
#include "crc.c"
#include "water.c"
#include "trellis.c"
#include "transform.c"

static int64_t scale_bytes(const stream_t *s, const rung_t *g) {
    return (int64_t)sizeof(float) + s->rows + (g->kind == PER_TOKEN ? 0 : s->channels);
}

int thinwire_encode(stream_t *s, const rung_t *g, const tables_t *c, const scratch_t *t, const void *x, const uint8_t *header,
                    uint8_t *frame, int64_t payload_bytes, int key_frame, double *relative_error) {
    uint8_t *payload = frame + HEADER_BYTES;
    double energy = 0;
    loss_t lost = {0};
    if (g->kind == RAW) {
        memcpy(payload, x, payload_bytes);
        move(s, g, c, t, x, 1, key_frame, NULL, &lost);
    } else {
        if (!key_frame) coefficients(s, c, t);
        measure(s, x, t, g->kind, key_frame, &energy, &lost);
        if (!(energy <= (double)c->largest_total[ROOT_MEAN_SQUARE])) return NOT_FINITE;
        if (!write_scales(s, g, c, t, payload)) return NOT_FINITE;
        read_scales(s, g, c, t, payload);
        move(s, g, c, t, NULL, 1, key_frame, NULL, &lost);
        pack(g, t->codes, s->rows * s->channels, payload + scale_bytes(s, g));
    }
    const uint32_t crc = crc32(c, payload, payload_bytes);
    memcpy(frame, header, CHECKED_BYTES);
    memcpy(frame + CHECKED_BYTES, &crc, sizeof crc);
    *relative_error = energy > 0 ? sqrt(lane_total(lost.total) / energy) : 0;
    return DONE;
}

int thinwire_decode(stream_t *s, const rung_t *g, const tables_t *c, const scratch_t *t, const uint8_t *frame,
                    const uint8_t *header, void *x, int64_t payload_bytes, int key_frame) {
    const uint8_t *payload = frame + HEADER_BYTES;
    uint32_t promised;
    loss_t lost = {0};
    if (memcmp(frame, header, CHECKED_BYTES)) return WRONG_HEADER;
    memcpy(&promised, frame + CHECKED_BYTES, sizeof promised);
    if (crc32(c, payload, payload_bytes) != promised) return WRONG_CRC;
    if (g->kind == RAW) {
        move(s, g, c, t, payload, 0, key_frame, NULL, &lost);
        memcpy(x, payload, payload_bytes);
        return DONE;
    }
    float top;
    memcpy(&top, payload, sizeof top);
    if (!(top == 0 || (top > c->smallest_top && top <= c->largest_top))) return WRONG_PAYLOAD;
    if (!unpack(g, payload + scale_bytes(s, g), s->rows * s->channels, t->codes)) return WRONG_PAYLOAD;
    if (!key_frame) coefficients(s, c, t);
    read_scales(s, g, c, t, payload);
    move(s, g, c, t, NULL, 0, key_frame, x, &lost);
    return DONE;
}

INLINE void predict_rows(const stream_t *s, const scratch_t *t, void *x, int order, int base_format) {
    float *row_out = column(s, t, NEW_BASE);
    for (int64_t row = 0; row < s->rows; row++) {
        const history_t h = history_row(s, row, order, base_format);
        for (int64_t j = 0; j < s->stride; j += LANES)
            store(row_out + j, predicted(&h, column(s, t, FIRST), column(s, t, SECOND), j, order, base_format));
        narrow_row(s, row_out, row, x);
    }
}

void thinwire_predict(const stream_t *s, const tables_t *c, const scratch_t *t, void *x) {
    coefficients(s, c, t);
    DISPATCH(predict_rows, s, t, x);
}

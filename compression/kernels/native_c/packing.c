/* Codes into bytes and back, as thinwire/compression/packing.py lays them out. */
INLINE void pack_bits(const uint8_t *codes, int64_t stride, int bits, int shift, uint8_t *out) {
    for (int64_t k = 0; k < stride; k++) {
        uint8_t byte = 0;
        for (int place = 0; place < 8 / bits; place++)
            byte |= (uint8_t)(((codes[k + place * stride] >> shift) & ((1 << bits) - 1)) << (place * bits));
        out[k] = byte;
    }
}
INLINE void unpack_bits(const uint8_t *in, int64_t stride, int bits, int shift, uint8_t *codes) {
    for (int place = 0; place < 8 / bits; place++)
        for (int64_t k = 0; k < stride; k++) {
            const uint8_t digit = (uint8_t)((in[k] >> (place * bits)) & ((1 << bits) - 1));
            codes[k + place * stride] = shift ? codes[k + place * stride] | (uint8_t)(digit << shift) : digit;
        }
}
static void pack(const rung_t *g, uint8_t *codes, int64_t count, uint8_t *out) {
    memset(codes + count, 0, 16);
    const int64_t fifth = (count + 4) / 5, quarter = (count + 3) / 4;
    if (g->bits == 0)
        for (int64_t k = 0; k < fifth; k++)
            out[k] = (uint8_t)(codes[k] + 3 * codes[k + fifth] + 9 * codes[k + 2 * fifth] + 27 * codes[k + 3 * fifth] +
                               81 * codes[k + 4 * fifth]);
    else if (g->bits == 1) pack_bits(codes, (count + 7) / 8, 1, 0, out);
    else if (g->bits == 2) pack_bits(codes, quarter, 2, 0, out);
    else if (g->bits == 3) {
        pack_bits(codes, quarter, 2, 0, out);
        pack_bits(codes, (count + 7) / 8, 1, 2, out + quarter);
    } else if (g->bits == 4) pack_bits(codes, (count + 1) / 2, 4, 0, out);
    else memcpy(out, codes, count);
}
/* Return 0 where no encoder could have written the bytes. */
static int unpack(const rung_t *g, const uint8_t *in, int64_t count, uint8_t *codes) {
    const int64_t fifth = (count + 4) / 5, quarter = (count + 3) / 4;
    uint8_t beyond = 0, most = 0;
    memset(codes + count, 0, 16);
    if (g->bits == 0) {
        for (int64_t k = 0; k < fifth; k++) most = in[k] > most ? in[k] : most;
        if (most > 242) return 0;
        for (int64_t k = 0; k < fifth; k++) {
            unsigned rest = in[k];
            for (int place = 0; place < 5; place++) {
                const unsigned third = rest * 171 >> 9;
                codes[k + place * fifth] = (uint8_t)(rest - 3 * third);
                rest = third;
            }
        }
    } else if (g->bits == 1) unpack_bits(in, (count + 7) / 8, 1, 0, codes);
    else if (g->bits == 2) unpack_bits(in, quarter, 2, 0, codes);
    else if (g->bits == 3) {
        unpack_bits(in, quarter, 2, 0, codes);
        for (int64_t k = count; k < 4 * quarter; k++) beyond |= codes[k];
        memset(codes + count, 0, 16);
        unpack_bits(in + quarter, (count + 7) / 8, 1, 2, codes);
    } else if (g->bits == 4) unpack_bits(in, (count + 1) / 2, 4, 0, codes);
    else memcpy(codes, in, count);
    for (int64_t k = count; k < count + 8; k++) beyond |= codes[k];
    if (beyond) return 0;
    if (g->kind == PER_TOKEN) {
        for (int64_t k = 0; k < count; k++) most = codes[k] > most ? codes[k] : most;
        if (most > 2 * g->levels) return 0;
    }
    return 1;
}

/* Vectors of 16 lanes: loading, storing, choosing, widening, narrowing. */
INLINE V load(const float *p) { V v; memcpy(&v, p, sizeof v); return v; }
INLINE void store(float *p, V v) { memcpy(p, &v, sizeof v); }
INLINE V splat(float x) { return x - (V){0}; }
INLINE V pick(I mask, V yes, V no) { return (V)(((I)yes & mask) | ((I)no & ~mask)); }
INLINE V magnitude(V v) { return (V)((I)v & 0x7fffffff); }
INLINE V larger(V a, V b) { return pick(a > b, a, b); }
INLINE float *column(const stream_t *s, const scratch_t *t, int which) { return t->columns + which * s->stride; }

INLINE V widen_bf16(const uint16_t *p) {
    U16 narrow; memcpy(&narrow, p, sizeof narrow);
    return (V)(__builtin_convertvector(narrow, U) << 16);
}
INLINE void narrow_bf16(uint16_t *p, V v) { /* to the nearest, ties to even; v is finite */
    U bits = (U)v;
    U16 narrow = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, U16);
    memcpy(p, &narrow, sizeof narrow);
}
INLINE V widen_int8(const int8_t *p) {
    I8 narrow; memcpy(&narrow, p, sizeof narrow);
    return __builtin_convertvector(__builtin_convertvector(__builtin_convertvector(narrow, I16), I), V);
}
INLINE I widen_codes(const uint8_t *p) {
    U8 narrow; memcpy(&narrow, p, sizeof narrow);
    return __builtin_convertvector(__builtin_convertvector(narrow, U16), I);
}
INLINE void store_codes(uint8_t *p, I codes) {
    U8 narrow = __builtin_convertvector(__builtin_convertvector(codes, U16), U8);
    memcpy(p, &narrow, sizeof narrow);
}
INLINE V round_even(V v) { return (v + 12582912.0f) - 12582912.0f; } /* for |v| < 2**22 */

/* Add the squares of `error`: into `squares`, which the caller adds to the total row by row, or finely at once. */
INLINE void lose(V error, V *squares, loss_t *lost) {
    if (lost->fine) {
        const D wide = __builtin_convertvector(error, D);
        lost->total += wide * wide;
    } else {
        *squares += error * error;
    }
}

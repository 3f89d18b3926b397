/* What crosses the border to Python (thinwire/compression/kernels/native.py mirrors it) and what the passes share. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the wire format is little-endian; use the eager kernel"
#endif

enum { DONE, WRONG_HEADER, WRONG_CRC, WRONG_PAYLOAD, NOT_FINITE };
enum { FLOAT32, BFLOAT16, FLOAT16 };
enum { FULL, INT8 };
enum { RAW, PER_TOKEN, MEAN_MAGNITUDE, ROOT_MEAN_SQUARE };
enum { SAME_NOW, SAME_BEFORE, SAME_EARLIER, NEXT_NOW, NEXT_BEFORE, SECOND_NOW };
enum { LANES = 16, BLOCK_ROWS = 64, HEADER_BYTES = 40, CHECKED_BYTES = 36, MAX_LEVELS = 8 };

#define INLINE static inline __attribute__((always_inline))

typedef float V __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
typedef uint32_t U __attribute__((vector_size(64)));
typedef uint16_t U16 __attribute__((vector_size(32)));
typedef int16_t I16 __attribute__((vector_size(32)));
typedef int8_t I8 __attribute__((vector_size(16)));
typedef uint8_t U8 __attribute__((vector_size(16)));
typedef double D __attribute__((vector_size(128)));

typedef struct {
    int64_t rows, channels, stride;
    int32_t dtype, order, base_format, newest;
    void *base, *deltas[2];
    float *base_scale, *delta_scales[2], *sums;
} stream_t;

typedef struct {
    int32_t kind, levels, bits; /* bits 0: trits */
    float threshold[MAX_LEVELS], level[MAX_LEVELS];
} rung_t;

typedef struct {
    float step[256], inverse_step[256], nearest[16], nearest_square[8], upward[16];
    float smallest_top, smallest_mean, largest_top, largest_value, smallest_sum, largest_sum, ridge, damping, limit[2], decay[3];
    float largest_total[4]; /* by kind of rung */
    uint32_t crc[16][256];
} tables_t;

/* What coding lost: sums of squares. `fine`: of tensors so quiet that squares would leave float32's range. */
typedef struct {
    D total;
    int fine;
} loss_t;

typedef struct {
    float *residual; /* [rows, stride] */
    float *columns;  /* [COLUMN_ARRAYS, stride] */
    float *row_a, *row_b; /* [rows rounded up to 16] */
    uint8_t *codes;  /* [rows * channels + 64] */
} scratch_t;

enum { FIRST, SECOND, STEP, INVERSE, MOMENT, MOMENT_BLOCK, SUMS, SUMS_BLOCK = SUMS + 3, WIDE = SUMS_BLOCK + 3, CODED,
       NEW_BASE, NEW_DELTA, COLUMN_ARRAYS };

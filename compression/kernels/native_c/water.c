/* Transform rungs: amplitude codes, reverse water-filling and Rice codes (thinwire/compression/transform/). */
enum { MAX_BITS = 7, AMPLITUDE_LIMIT = 240, TOKEN_LIMIT = 40, LARGEST_CHANGE = 31, MAX_PARAMETER = 7 };
enum { LEADER_BYTES = 6, SIXTEENTHS_PER_CODE = 8, SUBSETS = 4 };

typedef struct {
    float quarter[4], half_octave[2], largest_energy;
    int32_t gain[MAX_BITS];
    float limit[MAX_BITS + 1][SUBSETS][1 << (MAX_BITS - 1)], level[MAX_BITS + 1][2 << MAX_BITS];
} transform_tables_t;

typedef struct {
    int64_t blocks, size, padded;
    const float *forward, *inverse; /* [blocks, size, padded], padded = size rounded up to 16, with zeros */
    const int16_t *component_before, *token_before;
    int16_t *component, *token; /* written by every call; of use after DONE */
    int64_t tag;
} basis_t;

INLINE float power_of_two(int exponent) {
    const uint32_t bits = (uint32_t)(127 + exponent) << 23;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static float amplitude(const transform_tables_t *c, int code) { return c->quarter[code & 3] * power_of_two(code >> 2); }

static int cut(int value, int limit) { return value < -limit ? -limit : value > limit ? limit : value; }

static int energy_code(const transform_tables_t *c, float energy) {
    int exponent;
    if (!(energy > 0)) return -AMPLITUDE_LIMIT;
    const float mantissa = frexpf(energy, &exponent);
    return cut(2 * (exponent - 1) + (mantissa >= c->half_octave[0]) + (mantissa >= c->half_octave[1]), AMPLITUDE_LIMIT);
}

/* Put components in descending order of their codes, equals by index. */
static void by_code(const int16_t *codes, int64_t channels, int32_t *order) {
    int64_t start[2 * AMPLITUDE_LIMIT + 2] = {0};
    for (int64_t j = 0; j < channels; j++) start[AMPLITUDE_LIMIT - codes[j] + 1]++;
    for (int rank = 1; rank < 2 * AMPLITUDE_LIMIT + 1; rank++) start[rank] += start[rank - 1];
    for (int64_t j = 0; j < channels; j++) order[start[AMPLITUDE_LIMIT - codes[j]]++] = (int32_t)j;
}

/* Spread the bytes over components; `order` is room for [channels]. Equal codes are granted a plane together. */
static void bits_per_component(const transform_tables_t *c, const int16_t *codes, int64_t channels, int64_t rows,
                               int64_t available_bytes, int32_t *order, uint8_t *bits) {
    int64_t granted[MAX_BITS] = {0};
    by_code(codes, channels, order);
    for (;;) {
        int plane = -1, most = 0, code = 0;
        for (int b = 0; b < MAX_BITS; b++) {
            if (granted[b] == channels) continue;
            const int saving = SIXTEENTHS_PER_CODE * codes[order[granted[b]]] + c->gain[b];
            if (plane < 0 || saving > most) {
                plane = b;
                most = saving;
                code = codes[order[granted[b]]];
            }
        }
        if (plane < 0) break;
        int64_t end = granted[plane], left = available_bytes;
        while (end < channels && codes[order[end]] == code) end++;
        for (int b = 0; b < MAX_BITS; b++)
            if (b != plane) left -= (granted[b] * rows + 7) / 8;
        const int64_t fitting = 8 * left / rows, wanted = end;
        granted[plane] = wanted < fitting ? wanted : fitting;
        if (fitting < wanted) break;
    }
    memset(bits, 0, channels);
    for (int b = 0; b < MAX_BITS; b++)
        for (int64_t rank = 0; rank < granted[b]; rank++) bits[order[rank]]++;
}

static unsigned unsigned_of(int value) { return value < 0 ? -2 * value - 1 : 2 * value; }

/* Put into `kept` what `room_bits` can say of `wanted`; return the bits and the parameter. */
static int64_t affordable(const int16_t *wanted, int16_t *kept, int64_t count, int64_t room_bits, int *parameter) {
    int64_t least = -1;
    for (int k = 0; k <= MAX_PARAMETER; k++) {
        int64_t cost = (1 + k) * count;
        for (int64_t i = 0; i < count; i++) cost += unsigned_of(wanted[i]) >> k;
        if (least < 0 || cost < least) {
            least = cost;
            *parameter = k;
        }
    }
    memcpy(kept, wanted, count * sizeof *kept);
    if (least <= room_bits) return least;
    const int64_t spare = room_bits - count;
    const int limit = spare / 2 < LARGEST_CHANGE ? (int)(spare / 2) : LARGEST_CHANGE;
    int64_t spent = 0, paid = 0;
    *parameter = 0;
    memset(kept, 0, count * sizeof *kept);
    for (int size = LARGEST_CHANGE; size > 0; size--) /* the largest magnitudes first, until one is too dear */
        for (int64_t i = 0; i < count; i++) {
            if (wanted[i] != size && wanted[i] != -size) continue;
            const int said = cut(wanted[i], limit);
            spent += unsigned_of(said);
            if (spent > spare) continue;
            kept[i] = (int16_t)said;
            paid = spent;
        }
    return count + paid;
}

/* Write Rice codes from bit `at` on, over zeros; return where they end. */
static int64_t write_rice(uint8_t *bytes, int64_t at, const int16_t *values, int64_t count, int k) {
    for (int64_t i = 0; i < count; i++) {
        const unsigned value = unsigned_of(values[i]);
        for (unsigned ones = value >> k; ones; ones--, at++) bytes[at >> 3] |= (uint8_t)(1 << (at & 7));
        at++;
        for (int place = 0; place < k; place++, at++) bytes[at >> 3] |= (uint8_t)((value >> place & 1) << (at & 7));
    }
    return at;
}

/* Read Rice codes from bit `at` on; return where they end, or -1 where no encoder could have written them. */
static int64_t read_rice(const uint8_t *bytes, int64_t at, int64_t end, int16_t *values, int64_t count, int k) {
    for (int64_t i = 0; i < count; i++) {
        unsigned ones = 0, low = 0;
        while (at < end && (bytes[at >> 3] >> (at & 7) & 1) && ones <= 2 * LARGEST_CHANGE) {
            ones++;
            at++;
        }
        if (at + 1 + k > end || (bytes[at >> 3] >> (at & 7) & 1)) return -1;
        at++;
        for (int place = 0; place < k; place++, at++) low |= (unsigned)(bytes[at >> 3] >> (at & 7) & 1) << place;
        const unsigned value = ones << k | low;
        const int change = value & 1 ? -(int)((value + 1) >> 1) : (int)(value >> 1);
        if (change > LARGEST_CHANGE || change < -LARGEST_CHANGE) return -1;
        values[i] = (int16_t)change;
    }
    return at;
}

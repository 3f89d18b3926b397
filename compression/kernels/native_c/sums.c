/* Sums in the order of thinwire/compression/sums.py. */
INLINE void fold(float tile[LANES][LANES], int width) {
    for (int row = 0; row < LANES; row++)
        for (int lane = 0; lane < width; lane++) tile[row][lane] += tile[row][lane + width];
}

static float total_sum(const float *values, int64_t count) {
    float lanes[LANES] = {0};
    for (int64_t i = 0; i < count; i++) lanes[i % LANES] += values[i];
    for (int width = LANES / 2; width; width /= 2)
        for (int lane = 0; lane < width; lane++) lanes[lane] += lanes[lane + width];
    return lanes[0];
}

static void close_block(const stream_t *s, float *total, float *block, int arrays) {
    for (int64_t j = 0; j < arrays * s->stride; j++) {
        total[j] += block[j];
        block[j] = 0;
    }
}

static double lane_total(D lanes) {
    double total = 0;
    for (int lane = 0; lane < LANES; lane++) total += lanes[lane];
    return total;
}

/* Trellis-coded quantisation, operation by operation as thinwire/compression/transform/trellis.py; lanes are columns. */
enum { TRELLIS_STATES = 8, TRELLIS_BLOCK_ROWS = 256 };

/* One row's four nearest levels, a byte each, and one bit for each state that was reached from the higher of two. */
typedef struct {
    I nearest, high;
} step_t;

INLINE int subset_of(int before, int branch) { return (before & 1) + 2 * (branch ^ (before >> 1 & 1) ^ before >> 2); }

/* Which level of each subset is nearest to u, and what it costs. */
INLINE I nearest_levels(V u, V weight, const float limit[SUBSETS][1 << (MAX_BITS - 1)], const float *level, int bits, V *error) {
    const int limits = (1 << (bits - 1)) - 1;
    I nearest = {0};
    for (int subset = 0; subset < SUBSETS; subset++) {
        V found = splat(level[subset]);
        I index = {0};
        for (int k = 0; k < limits; k++) {
            const I reached = u >= splat(limit[subset][k]);
            index -= reached;
            found = pick(reached, splat(level[SUBSETS * (k + 1) + subset]), found);
        }
        const V lost = found - u;
        error[subset] = lost * lost * weight;
        nearest |= index << (8 * subset);
    }
    return nearest;
}

/* Codes of least error for up to 16 columns of a block; u: [rows, pitch], codes: [rows, code_pitch]. */
INLINE void best_path(const float *u, int64_t pitch, const float *weight, int rows, const transform_tables_t *tc, int bits,
                      uint8_t *codes, int64_t code_pitch, int columns) {
    step_t steps[TRELLIS_BLOCK_ROWS];
    V cost[TRELLIS_STATES];
    for (int state = 0; state < TRELLIS_STATES; state++) cost[state] = splat(state ? INFINITY : 0);
    for (int row = 0; row < rows; row++) {
        V error[SUBSETS], next[TRELLIS_STATES];
        steps[row].nearest =
            nearest_levels(load(u + row * pitch), splat(weight[row]), tc->limit[bits], tc->level[bits], bits, error);
        steps[row].high = (I){0};
        for (int state = 0; state < TRELLIS_STATES; state++) {
            const int low = state >> 1, high = low + TRELLIS_STATES / 2;
            const V one = cost[low] + error[subset_of(low, state & 1)];
            const V other = cost[high] + error[subset_of(high, state & 1)];
            const I chosen = other < one;
            next[state] = pick(chosen, other, one);
            steps[row].high |= chosen & (1 << state);
        }
        memcpy(cost, next, sizeof cost);
    }
    I state = {0};
    V least = cost[0];
    for (int other = 1; other < TRELLIS_STATES; other++) {
        const I less = cost[other] < least;
        least = pick(less, cost[other], least);
        state = (state & ~less) | (less & other);
    }
    for (int row = rows - 1; row >= 0; row--) {
        const I branch = state & 1, before = (state >> 1) + TRELLIS_STATES / 2 * (steps[row].high >> state & 1);
        const I subset = (before & 1) + 2 * (branch ^ (before >> 1 & 1) ^ before >> 2);
        uint8_t found[LANES];
        store_codes(found, 2 * (steps[row].nearest >> (8 * subset) & 255) + branch);
        memcpy(codes + row * code_pitch, found, columns);
        state = before;
    }
}

/* Turn the codes of one row into what the levels are called by; branches: the lowest bits of three rows before. */
INLINE int level_index(int code, int one, int two, int three) {
    return 4 * (code >> 1) + (one & 1) + 2 * ((code ^ two ^ three) & 1);
}

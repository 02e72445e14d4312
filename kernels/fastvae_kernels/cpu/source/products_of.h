/* The kernels of products.c for one kind of vector, which the macros below describe. Included once for each. */

/* Sums stay in registers while all terms go by. */
static inline __attribute__((always_inline)) TARGET void NAMED(block)(int rows, int panels, const products *own,
                                                                      int64_t panel, const float *const *x,
                                                                      float *const *y) {
    VECTOR sum[MOST_ROWS][MOST_PANELS][PARTS];
    const float *weight = own->weight + panel * own->segments * own->length * LANES;
    int64_t next = own->segments * own->length * LANES;
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < panels; p++)
            for (int i = 0; i < PARTS; i++) sum[r][p][i] = LOAD(own->bias + (panel + p) * LANES + i * LANES / PARTS);
    for (int64_t segment = 0; segment < own->segments; segment++) {
        const float *from[MOST_ROWS];
        for (int r = 0; r < rows; r++) from[r] = x[r] + own->offsets[segment];
        for (int64_t term = 0; term < own->length; term++, weight += LANES) {
            VECTOR by[MOST_PANELS][PARTS];
            for (int p = 0; p < panels; p++)
                for (int i = 0; i < PARTS; i++) by[p][i] = LOAD(weight + p * next + i * LANES / PARTS);
            for (int r = 0; r < rows; r++) {
                VECTOR value = SPREAD(from[r][term]);
                for (int p = 0; p < panels; p++)
                    for (int i = 0; i < PARTS; i++) sum[r][p][i] = MULTIPLY_ADD(value, by[p][i], sum[r][p][i]);
            }
        }
    }
    for (int p = 0; p < panels; p++) {
        int64_t first = (panel + p) * LANES, left = own->outputs - first;
        for (int r = 0; r < rows; r++) {
            float some[LANES], *to = left < LANES ? some : y[r] + first;
            for (int i = 0; i < PARTS; i++) {
                VECTOR whole = own->relu ? ABOVE_ZERO(sum[r][p][i]) : sum[r][p][i];
                STORE(to + i * LANES / PARTS, whole);
            }
            if (left < LANES) memcpy(y[r] + first, some, (size_t)left * sizeof(float));
        }
    }
}

/* All panels for `rows` rows, as many of them at a time as there are registers for. */
static inline __attribute__((always_inline)) TARGET void NAMED(rows)(int rows, int panels, const products *own,
                                                                     int count, const float *const *x,
                                                                     float *const *y) {
    int64_t all = (own->outputs + LANES - 1) / LANES, panel = 0;
    for (; panel + panels <= all; panel += panels)
        for (int r = 0; r < count; r += rows) NAMED(block)(rows, panels, own, panel, x + r, y + r);
    for (; panel < all; panel++)
        for (int r = 0; r < count; r += rows) NAMED(block)(rows, 1, own, panel, x + r, y + r);
}

/* Rows in blocks of the size that fills the registers, and what is left over in smaller ones: 4 as 8 and 8 instead of 12 and
   4, which would leave most of the time between dependent sums unused. */
TARGET static void NAMED(products)(const products *own, int rows, const float *const *x, float *const *y) {
    int done = rows - rows % MANY_ROWS, panels = (int)((own->outputs + LANES - 1) / LANES);
    if (panels == EIGHT_PANELS) done = 0;
    if (EIGHT_PANELS && rows - done == 4 && done) done -= MANY_ROWS;
    if (done) NAMED(rows)(MANY_ROWS, MANY_PANELS, own, done, x, y);
    if (EIGHT_PANELS && rows - done >= 8) {
        int eights = (rows - done) / 8 * 8;
        NAMED(rows)(8, EIGHT_PANELS, own, eights, x + done, y + done);
        done += eights;
    }
    if (rows - done >= 4) {
        NAMED(rows)(4, FOUR_PANELS, own, (rows - done) / 4 * 4, x + done, y + done);
        done += (rows - done) / 4 * 4;
    }
    if (rows - done >= 2) {
        NAMED(rows)(2, TWO_PANELS, own, 2, x + done, y + done);
        done += 2;
    }
    if (rows > done) NAMED(rows)(1, ONE_PANELS, own, 1, x + done, y + done);
}

static inline __attribute__((always_inline)) TARGET void NAMED(lines)(int rows, int outputs, const products *own,
                                                                      const float *const *x, float (*y)[LANES]) {
    VECTOR sum[8][MOST_OUTPUTS][PARTS];
    const float *weight = own->weight;
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < outputs; o++)
            for (int i = 0; i < PARTS; i++) sum[r][o][i] = SPREAD(own->bias[o]);
    for (int64_t term = 0; term < own->segments; term++, weight += outputs)
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < PARTS; i++) {
                VECTOR some = LOAD(x[r] + own->offsets[term] + i * LANES / PARTS);
                for (int o = 0; o < outputs; o++) sum[r][o][i] = MULTIPLY_ADD(some, SPREAD(weight[o]), sum[r][o][i]);
            }
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < outputs; o++)
            for (int i = 0; i < PARTS; i++) {
                VECTOR whole = own->relu ? ABOVE_ZERO(sum[r][o][i]) : sum[r][o][i];
                STORE(y[r * outputs + o] + i * LANES / PARTS, whole);
            }
}

static inline __attribute__((always_inline)) TARGET void NAMED(of_outputs)(int lines, int outputs, const products *own,
                                                                           int rows, const float *const *x,
                                                                           float (*y)[LANES]) {
    int done = 0;
    for (; done + lines <= rows; done += lines) NAMED(lines)(lines, outputs, own, x + done, y + done * outputs);
    for (; done < rows; done++) NAMED(lines)(1, outputs, own, x + done, y + done * outputs);
}

TARGET static void NAMED(planes)(const products *own, int rows, const float *const *x, float (*y)[LANES]) {
    switch (own->outputs) {
        case 1: NAMED(of_outputs)(LINES, 1, own, rows, x, y); break;
        case 2: NAMED(of_outputs)(LINES_OF_TWO, 2, own, rows, x, y); break;
        case 3: NAMED(of_outputs)(LINES_OF_THREE, 3, own, rows, x, y); break;
        default: NAMED(of_outputs)(LINES_OF_FOUR, 4, own, rows, x, y); break;
    }
}

TARGET static void NAMED(transpose)(int64_t rows, int64_t columns, const float *x, int64_t x_row, float *y,
                                    int64_t y_row) {
    int64_t row = 0;
    for (; row + SIDE <= rows; row += SIDE) {
        int64_t column = 0;
        for (; column + SIDE <= columns; column += SIDE)
            NAMED(square)(x + row * x_row + column, x_row, y + column * y_row + row, y_row);
        for (; column < columns; column++)
            for (int64_t r = row; r < row + SIDE; r++) y[column * y_row + r] = x[r * x_row + column];
    }
    for (; row < rows; row++)
        for (int64_t column = 0; column < columns; column++) y[column * y_row + row] = x[row * x_row + column];
}

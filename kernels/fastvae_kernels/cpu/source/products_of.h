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

/* A group of panels for all rows, in blocks of so many, and what is left over in smaller ones. */
static inline __attribute__((always_inline)) TARGET void NAMED(group)(int rows, int panels, const products *own,
                                                                      int64_t panel, int count, const float *const *x,
                                                                      float *const *y) {
    int r = 0, left = count % rows, whole = count - left;
    if (rows == 12 && left == 4 && whole) whole -= rows; /* as 8 and 8: blocks of 4 leave sums waiting */
    for (; r < whole; r += rows) NAMED(block)(rows, panels, own, panel, x + r, y + r);
    if (rows > 8)
        for (; r + 8 <= count; r += 8) NAMED(block)(8, panels, own, panel, x + r, y + r);
    if (rows > 4)
        for (; r + 4 <= count; r += 4) NAMED(block)(4, panels, own, panel, x + r, y + r);
    if (rows > 2)
        for (; r + 2 <= count; r += 2) NAMED(block)(2, panels, own, panel, x + r, y + r);
    if (rows > 1)
        for (; r < count; r++) NAMED(block)(1, panels, own, panel, x + r, y + r);
}

/* Of a few rows, as many panels at a time as leave no sum waiting for the one before it. */
static inline __attribute__((always_inline)) TARGET void NAMED(few)(int rows, int panels, const products *own,
                                                                    const float *const *x, float *const *y) {
    int64_t all = (own->outputs + LANES - 1) / LANES, panel = 0;
    for (; panel + panels <= all; panel += panels) NAMED(block)(rows, panels, own, panel, x, y);
    for (; panel < all; panel++) NAMED(block)(rows, 1, own, panel, x, y);
}

TARGET static void NAMED(products)(const products *own, int rows, const float *const *x, float *const *y) {
    int64_t all = (own->outputs + LANES - 1) / LANES, panel = 0;
    if (rows < FEW) {
        int done = 0;
        if (FEW > 4 && rows >= 4) NAMED(few)(4, FOUR_PANELS, own, x, y), done = 4;
        if (FEW > 2 && rows - done >= 2) NAMED(few)(2, TWO_PANELS, own, x + done, y + done), done += 2;
        if (rows > done) NAMED(few)(1, ONE_PANELS, own, x + done, y + done);
        return;
    }
    if (GROUP == 4)
        for (; panel + 4 <= all; panel += 4) NAMED(group)(ROWS_BY_FOUR, 4, own, panel, rows, x, y);
    if (GROUP == 4 && all - panel == 3) NAMED(group)(ROWS_BY_THREE, 3, own, panel, rows, x, y), panel += 3;
    if (GROUP == 4 && all - panel == 2) NAMED(group)(ROWS_BY_TWO, 2, own, panel, rows, x, y), panel += 2;
    for (; panel < all; panel++) NAMED(group)(ROWS_BY_ONE, 1, own, panel, rows, x, y);
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

/* Forgets what products_of.h was included with. */

#undef TARGET
#undef NAMED
#undef VECTOR
#undef PARTS
#undef LOAD
#undef STORE
#undef SPREAD
#undef MULTIPLY_ADD
#undef ABOVE_ZERO
#undef GROUP
#undef ROWS_BY_FOUR
#undef ROWS_BY_THREE
#undef ROWS_BY_TWO
#undef ROWS_BY_ONE
#undef FEW
#undef FOUR_PANELS
#undef TWO_PANELS
#undef ONE_PANELS
#undef LINES
#undef LINES_OF_TWO
#undef LINES_OF_THREE
#undef LINES_OF_FOUR
#undef SIDE

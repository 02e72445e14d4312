"""Data files as people have them: what the command line reads rows from and writes results to.

Only NumPy is needed at import; pandas, pyarrow and Pillow are imported by the formats that need them.
"""

from fastvae.files._common import needs
from fastvae.files._images import check_grid
from fastvae.files._pictures import MALFORMED
from fastvae.files.ahead import read_ahead
from fastvae.files.sinks import SUFFIXES as OUTPUT_SUFFIXES
from fastvae.files.sinks import Field, Sink, check_target, open_sink, square_columns
from fastvae.files.source import SUFFIXES as INPUT_SUFFIXES
from fastvae.files.source import ReadOptions, Source, open_source

__all__ = [
    "INPUT_SUFFIXES",
    "MALFORMED",
    "OUTPUT_SUFFIXES",
    "Field",
    "ReadOptions",
    "Sink",
    "Source",
    "check_grid",
    "check_target",
    "needs",
    "open_sink",
    "open_source",
    "read_ahead",
    "square_columns",
]

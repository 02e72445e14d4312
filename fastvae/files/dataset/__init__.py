"""Data sets of any size: what :func:`open_dataset` describes can be pickled, and its rows read from any one on."""

from fastvae.files.dataset._dataset import SUFFIXES, Dataset, open_dataset
from fastvae.files.dataset._indexing import Told
from fastvae.files.dataset._part import INTEGER, TEXT, Chunk, DataFile, IdColumn

__all__ = ["INTEGER", "SUFFIXES", "TEXT", "Chunk", "DataFile", "Dataset", "IdColumn", "Told", "open_dataset"]

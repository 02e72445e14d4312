"""Every exception a user of fastvae can meet, and every category of warnings.

All exceptions derive from :class:`FastVAEError`, so one ``except`` catches them; the subclasses say whose
mistake it was. A message names the file or argument, what was expected and what was found.
"""

__all__ = [
    "ClosedError",
    "FastVAEError",
    "ForkError",
    "ImputationWarning",
    "IncompleteJobError",
    "InputError",
    "JobError",
    "NumericsError",
    "OutOfMemoryError",
    "OutputError",
    "TranslationError",
    "UnsafeFileError",
    "UnsupportedError",
    "WeightFormatError",
    "WeightMismatchError",
]


class FastVAEError(Exception):
    """Base class of every error fastvae raises on purpose."""


class WeightFormatError(FastVAEError):
    """A checkpoint or a model spec is malformed: what is on disk is not what its format promises."""


class WeightMismatchError(FastVAEError):
    """The tensors and the spec are each well-formed but do not belong together."""


class UnsafeFileError(FastVAEError):
    """A file asks for something loading must never do: run code, or allocate more than its size justifies."""


class InputError(FastVAEError, ValueError):
    """A caller handed in an argument of the wrong shape, dtype, range or value."""


class OutputError(FastVAEError, OSError):
    """A result could not be written; nothing was left under its final name."""


class UnsupportedError(FastVAEError):
    """The request is well-formed, but this implementation, device or format cannot do it."""


class OutOfMemoryError(FastVAEError, MemoryError):
    """Not even one row at a time fits in the device's memory."""


class NumericsError(FastVAEError, ArithmeticError):
    """A value inside of the model is beyond the range of the precision it runs in; a wider one holds it."""


class ClosedError(FastVAEError, RuntimeError):
    """The model was closed: its weights are no longer in memory."""


class ForkError(FastVAEError, RuntimeError):
    """This process was forked from one that had the model on a GPU, and CUDA does not survive a fork."""


class TranslationError(FastVAEError, AssertionError):
    """A module was translated into a model that computes something else: our mistake, not the caller's."""


class JobError(FastVAEError):
    """A bulk job cannot go on in this folder: it holds another job or none, or another process works on it."""


class IncompleteJobError(JobError):
    """Some shards of a bulk job kept failing; the others are done, and the same call tries the rest again."""


class ImputationWarning(UserWarning):
    """Imputed values rest on too few samples to be trusted; the message says of how many rows, and what to do."""

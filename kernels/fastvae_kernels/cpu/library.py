"""The compiled kernels, if this installation has them: a small C library that a package's build makes or leaves out."""

import ctypes
import importlib.util
from ctypes import POINTER, c_float, c_int, c_int64, c_uint32, c_uint64, c_void_p

import torch
from torch import Tensor

__all__ = [
    "LIKELIHOODS",
    "NO_LOGVAR",
    "OF_ALL",
    "OF_COLUMN",
    "OF_ENTRY",
    "Arrangement",
    "Divergence",
    "Loss",
    "OfWindows",
    "Products",
    "RowCall",
    "RowStep",
    "address",
    "has_wide_products",
    "library",
    "plain",
    "threads_for",
    "why_not",
]

# In the order of source/elbo_loss.h's enums: the likelihoods, and what a log-variance belongs to.
LIKELIHOODS = ("bernoulli", "gaussian", "squared_error")
NO_LOGVAR, OF_ENTRY, OF_COLUMN, OF_ALL = range(4)


class Loss(ctypes.Structure):
    """`loss` of source/elbo_loss.c."""

    _fields_ = (
        ("output", c_void_p),
        ("data", c_void_p),
        ("logvar", c_void_p),
        ("weight", c_void_p),
        ("mask", c_void_p),
        ("to_output", c_void_p),
        ("to_logvar", c_void_p),
        ("to_shared", c_void_p),
        ("sums", c_void_p),
        ("rows", c_int64),
        ("columns", c_int64),
        ("data_rows", c_int64),
        ("tile_rows", c_int64),
        ("tile_columns", c_int64),
        ("likelihood", c_int),
        ("logvar_kind", c_int),
        ("scale", c_float),
    )


class Divergence(ctypes.Structure):
    """`divergence` of source/divergence.c."""

    _fields_ = (
        ("mean", c_void_p),
        ("logvar", c_void_p),
        ("weight", c_void_p),
        ("to_mean", c_void_p),
        ("to_logvar", c_void_p),
        ("rows", c_void_p),
        ("columns", c_int64),
    )


class Products(ctypes.Structure):
    """`products` of source/products.h."""

    _fields_ = (
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("offsets", c_void_p),
        ("segments", c_int64),
        ("length", c_int64),
        ("outputs", c_int64),
        ("relu", c_int),
    )


class OfWindows(ctypes.Structure):
    """`windows` of source/images.h."""

    _fields_ = (
        ("sums", Products),
        ("x_first", c_int64),
        ("y_first", c_int64),
        ("lines", c_int64),
        ("columns", c_int64),
        ("x_line", c_int64),
        ("x_column", c_int64),
        ("y_line", c_int64),
        ("y_column", c_int64),
        ("y_channel", c_int64),
    )


class Arrangement(ctypes.Structure):
    """`arrangement` of source/images.h."""

    _fields_ = (("sizes", c_int64 * 3), ("from", c_int64 * 3), ("to", c_int64 * 3))


class RowStep(ctypes.Structure):
    """`row_step` of source/row_steps.c."""

    _fields_ = (
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("windows", POINTER(OfWindows)),
        ("moved", Arrangement),
        ("x", c_int64),
        ("other", c_int64),
        ("to", c_int64),
        ("logvar", c_int64),
        ("inputs", c_int64),
        ("outputs", c_int64),
        ("kinds", c_int64),
        ("kind", c_int),
        ("function", c_int),
        ("logvar_kind", c_int),
        ("alpha", c_float),
        ("least", c_float),
        ("most", c_float),
    )


class RowCall(ctypes.Structure):
    """`row_call` of source/row_steps.c."""

    _fields_ = (
        ("steps", POINTER(RowStep)),
        ("given", POINTER(c_void_p)),
        ("given_rows", POINTER(c_int64)),
        ("columns", POINTER(c_int64)),
        ("made", POINTER(c_void_p)),
        ("places", POINTER(c_int64)),
        ("bytes", POINTER(c_int64)),
        ("rooms", POINTER(c_void_p)),
        ("count", c_int64),
        ("outputs", c_int64),
        ("rows", c_int64),
        ("scratch", c_int64),
        ("room", c_int64),
        ("tile", c_int64),
        ("values", c_int),
        ("threads", c_int),
        ("apart", c_int),
    )


def address(x: Tensor | None) -> int | None:
    """Where a tensor's entries lie, or the null pointer."""
    return None if x is None else x.data_ptr()


def plain(x: Tensor) -> Tensor:
    """In float32, without gaps; itself where it is so already, which asking first makes cheap."""
    if x.dtype == torch.float32 and x.is_contiguous() and not x.is_neg():
        return x
    return x.detach().to(torch.float32).contiguous().resolve_neg()


def threads_for(count: int, least: int) -> int:
    """Threads for so much work: PyTorch's own number, or fewer, where each would have less than `least`."""
    return min(torch.get_num_threads(), -(-count // least))


def _load() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    found = importlib.util.find_spec("fastvae_kernels.cpu._compiled")
    if found is None or found.origin is None:
        return "this installation was built without a C compiler"
    try:
        loaded = ctypes.CDLL(found.origin)
    except OSError as error:
        return f"the compiled library does not load: {error}"
    return loaded if _declared(loaded) else "the compiled library is another version's: install the package again"


def _declared(loaded: ctypes.CDLL) -> bool:
    """Whether a library has this version's functions, which are then given their arguments' types."""
    structures = {"loss": Loss, "divergence": Divergence, "row_step": RowStep, "row_call": RowCall}
    sizes = (f"{name}_size" for name in structures)
    names = (
        "noise",
        "elbo_loss",
        "divergence",
        "row_steps",
        "has_wide_products",
        "use_vectors",
        "weighted_words",
        *sizes,
    )
    if not all(hasattr(loaded, f"fastvae_{name}") for name in names):
        return False
    shape, counter, flags = [c_int64] * 3, [c_uint64, c_uint64, c_uint32], [c_int] * 3
    loaded.fastvae_noise.argtypes = [c_void_p, *shape, *counter, *flags]
    loaded.fastvae_noise.restype = None
    loaded.fastvae_elbo_loss.argtypes = [POINTER(Loss), c_int]
    loaded.fastvae_elbo_loss.restype = None
    loaded.fastvae_divergence.argtypes = [POINTER(Divergence), c_int64, c_int]
    loaded.fastvae_divergence.restype = None
    loaded.fastvae_row_steps.argtypes = [POINTER(RowCall)]
    loaded.fastvae_has_wide_products.argtypes = []
    loaded.fastvae_use_vectors.argtypes = [c_int]
    loaded.fastvae_use_vectors.restype = None
    loaded.fastvae_weighted_words.argtypes = [c_void_p, c_int64, c_int64, c_uint64, c_void_p]
    loaded.fastvae_weighted_words.restype = None
    return all(
        getattr(loaded, f"fastvae_{name}_size")() == ctypes.sizeof(structure) for name, structure in structures.items()
    )


_LOADED = _load()


def why_not() -> str | None:
    """Why the compiled kernels cannot run here, or None if they can."""
    return _LOADED if isinstance(_LOADED, str) else None


def library() -> ctypes.CDLL:
    """The compiled kernels; calls into them let other Python threads run. Only where `why_not()` is None."""
    assert not isinstance(_LOADED, str)
    return _LOADED


def has_wide_products() -> bool:
    """Whether products of rows by weights are fused multiply-adds of wide vectors here: as fast as anybody's."""
    return why_not() is None and bool(library().fastvae_has_wide_products())

"""A plan as a table of steps, in one call of the compiled library: layers, or the scores that end a plan.

Steps are added one by one, and each gives the place of what it makes, for others to read. Rows go through them a few
at a time, so that what lies between layers never leaves the caches.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from ctypes import c_int64
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checks import ACTIVATIONS
from .library import (
    LIKELIHOODS,
    NO_LOGVAR,
    OF_COLUMN,
    OF_ENTRY,
    Arrangement,
    OfWindows,
    Products,
    RowStep,
)
from .row_program import LANES, MADE, MOST_MADE, RowProgram, aligned
from .windows import Image, Padding, Windows

__all__ = ["GIVEN", "StepTable"]

# The place of the caller's rows; a second array of them is at GIVEN - 1, and so on.
GIVEN = -1
_KINDS = (  # as in the source
    "linear",
    "affine",
    "add",
    "clamp",
    "score",
    "divergence",
    "arrange",
    "convolve",
    "planes",
    "activate",
    "pixels",
)
_ALPHA = {"leaky_relu": 0.01, "elu": 1.0}
# Behind scratch, whose size is known when all steps are: what a row makes lies from here on.
_OWN = 2**40
# Each step's fields that are places.
_PLACES = ("x", "other", "to", "logvar")

_Floats: TypeAlias = NDArray[np.float32]


class StepTable:
    """Steps on float32 rows, all of whose entries lie side by side where nothing else is said."""

    def __init__(self) -> None:
        self._steps: list[RowStep] = []
        self._kept: list[NDArray[Any]] = []  # what steps point to
        self._products, self._scratch = 0, 0  # multiplications of a row, and floats of all images
        self._sizes: dict[int, int] = {}  # columns of what lies at a place of a row
        self._next = _OWN

    def linear(self, x: int, weight: Tensor, bias: Tensor | None, activation: str, alpha: float | None) -> int:
        """activation(x @ weight.T + bias); weight [outputs, inputs], bias [outputs]."""
        outputs, inputs = weight.shape
        sums = self._sums(_numbers(weight), bias, [0], inputs, activation)
        self._products += outputs * inputs
        function = {} if activation == "relu" else _activation(activation, alpha)
        to = self._own(outputs)
        self._add("linear", x, [OfWindows(sums=sums)], to=to, outputs=outputs, **function)
        return to

    def affine(self, x: int, scale: Tensor, shift: Tensor, activation: str, alpha: float | None) -> int:
        """activation(x * scale + shift); scale and shift [columns]."""
        settings: dict[str, Any] = {"weight": self._keep(_numbers(scale)), "bias": self._keep(_numbers(shift))}
        return self._step("affine", x, len(scale), outputs=len(scale), **settings, **_activation(activation, alpha))

    def add(self, x: int, other: int, columns: int) -> int:
        """x + other."""
        return self._step("add", x, columns, other=other, outputs=columns)

    def clamp(self, x: int, columns: int, least: float, most: float) -> int:
        """x within [least, most]."""
        return self._step("clamp", x, columns, outputs=columns, least=least, most=most)

    def score(
        self, likelihood: str, output: int, data: int, columns: int, logvar: int | None = None, constant: Any = None
    ) -> int:
        """One number a row: the score of `data` under `output`, as `elbo_loss` has it.

        `logvar` is the place of a log-variance, `constant` a tensor [columns] that is every row's.
        """
        kind = OF_ENTRY if logvar is not None else NO_LOGVAR if constant is None else OF_COLUMN
        settings = {"function": LIKELIHOODS.index(likelihood), "logvar_kind": kind, "logvar": logvar or 0}
        if constant is not None:
            settings["weight"] = self._keep(_numbers(constant))
        return self._step("score", output, 1, other=data, inputs=columns, outputs=1, **settings)

    def divergence(self, mean: int, logvar: int, columns: int) -> int:
        """One number a row: KL(N(mean, exp logvar) || N(0, I))."""
        return self._step("divergence", mean, 1, other=logvar, inputs=columns, outputs=1)

    def pixels(self, x: int, channels: int, entries: int, scale: float, shift: float) -> tuple[int, int]:
        """The bytes of an image [channels, entries], and whether it has a NaN, as `to_bytes` gives them.

        Both are results that a call has arrays for, uint8 and bool.
        """
        sizes = {"inputs": channels, "outputs": entries, "least": scale, "most": shift}
        nan = self._own(1)
        return self._step("pixels", x, channels * entries, other=nan, **sizes), nan

    def columns(self, x: int, first: int, step: int, count: int, length: int = 1) -> int:
        """Every ``step``th group of ``length`` entries from the ``first`` on, ``count`` of them."""
        to = self._own(count * length)
        self._arrange(x, first * length, to, (1, length, count), (0, 1, step * length), (0, 1, length))
        return to

    def image(self, shape: Sequence[int], padding: Padding = (0, 0, 0, 0), *, planar: bool = False) -> Image:
        """Memory for one image [channels, height, width] at a time, with zeros around it."""
        channels, height, width = shape
        made = Image(self._scratch, channels, height, width, padding, planar)
        # Behind it may be read what is not used, see `fastvae_convolve_planes`.
        self._scratch += -(-(made.size + LANES) // LANES) * LANES
        return made

    def flat(self, shape: Sequence[int]) -> Image:
        """Memory for each row's image [channels, height, width], line by line of each channel."""
        channels, height, width = shape
        return Image(self._own(channels * height * width), channels, height, width)

    def copy(self, x: Image, to: Image) -> None:
        """An image to where another lies."""
        if x.planar and to.planar:
            sizes, axes = (x.channels, x.height, x.width), ("channel", "line", "column")
        elif to.planar:
            sizes, axes = (x.height, x.channels, x.width), ("line", "channel", "column")
        else:
            sizes, axes = (x.height, x.width, x.channels), ("line", "column", "channel")
        strides = [tuple(getattr(image, axis) for axis in axes) for image in (x, to)]
        self._arrange(x.place, x.first - x.place, to.first, sizes, *strides)

    def convolve(
        self,
        x: Image,
        to: Image,
        windows: Sequence[Windows],
        bias: Tensor | None,
        activation: str,
        alpha: float | None,
    ) -> None:
        """activation(sums over windows of x + bias), to where ``to`` lies.

        ``x`` has the zeros around it that the windows need. A planar ``to`` has none and at most four channels; ``x``
        is planar scratch then, and the windows' stride 1.
        """
        kinds = [self._windows(x, to, own, bias, activation) for own in windows]
        together = {(own.lines, own.columns) for own in windows}
        if not to.planar:
            self._add("convolve", x.place, kinds, to=to.place)
        elif len(together) == 1:
            self._add("planes", x.place, kinds, to=to.place)
        else:
            for kind in kinds:
                self._add("planes", x.place, [kind], to=to.place)
        if activation not in ("identity", "relu"):
            lines, length = (1, to.size) if to.planar else (to.height, to.width * to.channels)
            moved = Arrangement(sizes=(lines, length, 0), to=(to.line, 0, 0))
            self._add("activate", 0, (), to=to.first, moved=moved, **_activation(activation, alpha))

    def program(self, outputs: Sequence[int], columns: Sequence[int]) -> RowProgram:
        """All steps so far, as something to call, whose results are at the places `outputs` and have so many `columns`.

        They are made where the caller wants them, but for those that are a part of another or wanted twice.
        """
        made = {
            place: index
            for index, place in enumerate(outputs)
            if self._sizes.get(place) == columns[index] and not self._is_shared(place, outputs)
        }
        starts, room = {}, 0
        for place, size in self._sizes.items():
            starts[place] = room
            room += 0 if place in made else -(-size // LANES) * LANES
        known = sorted(self._sizes)

        def placed(place: int) -> int:
            if place < _OWN:
                return place
            first = known[bisect_right(known, place) - 1]
            if first in made:
                return MADE - made[first] - (place - first) * MOST_MADE
            return self._scratch + starts[first] + place - first

        steps = (RowStep * len(self._steps))(*self._steps)
        for step in steps:
            for field in _PLACES:
                setattr(step, field, placed(getattr(step, field)))
        places = [placed(place) for place in outputs]
        return RowProgram(steps, places, self._kept, scratch=self._scratch, room=room, products=self._products)

    def _is_shared(self, first: int, outputs: Sequence[int]) -> bool:
        """Whether what lies from ``first`` on is wanted twice, or a part of it also for itself."""
        return sum(first <= place < first + self._sizes[first] for place in outputs) > 1

    def _windows(self, x: Image, to: Image, own: Windows, bias: Tensor | None, activation: str) -> OfWindows:
        """The products of all windows of a kind."""
        offsets, length = own.offsets(x)
        weights = own.weights(x)
        if to.planar:
            assert x.planar
            assert x.place >= 0
            assert own.stride == (1, 1)
            offsets, length = [start + column for start in offsets for column in range(length)], 1
            shift = np.zeros(to.channels, np.float32) if bias is None else _numbers(bias)
            sums = self._of_products(weights.T, shift, offsets, length, to.channels, activation)
        else:
            sums = self._sums(weights, bias, offsets, length, activation)
        self._products += own.lines * own.columns * own.terms.size
        return OfWindows(
            sums=sums,
            x_first=x.first - x.place + own.top * x.line + own.left * x.column,
            y_first=to.first - to.place + own.start[0] * to.line + own.start[1] * to.column,
            lines=own.lines,
            columns=own.columns,
            x_line=own.stride[0] * x.line,
            x_column=own.stride[1] * x.column,
            y_line=own.step[0] * to.line,
            y_column=own.step[1] * to.column,
            y_channel=to.channel,
        )

    def _sums(
        self, weight: _Floats, bias: Tensor | None, offsets: Sequence[int], length: int, activation: str
    ) -> Products:
        """Products of rows by weights [outputs, terms], in panels."""
        outputs, terms = weight.shape
        panels = -(-outputs // LANES)
        padded = np.zeros((panels * LANES, terms), np.float32)
        padded[:outputs] = weight
        shift = np.zeros(panels * LANES, np.float32)
        if bias is not None:
            shift[:outputs] = _numbers(bias)
        packed = padded.reshape(panels, LANES, terms).transpose(0, 2, 1)
        return self._of_products(packed, shift, offsets, length, outputs, activation)

    def _of_products(
        self, weight: _Floats, bias: _Floats, offsets: Sequence[int], length: int, outputs: int, activation: str
    ) -> Products:
        starts = np.array(offsets, np.int64)
        self._kept.append(starts)
        return Products(
            weight=self._keep(weight),
            bias=self._keep(bias),
            offsets=starts.ctypes.data,
            segments=len(offsets),
            length=length,
            outputs=outputs,
            relu=activation == "relu",
        )

    def _arrange(
        self, x: int, first: int, to: int, sizes: tuple[int, ...], source: tuple[int, ...], target: tuple[int, ...]
    ) -> None:
        moved = Arrangement(sizes=sizes, to=target)
        setattr(moved, "from", (c_int64 * 3)(*source))
        self._add("arrange", x + first, (), to=to, moved=moved)

    def _step(self, kind: str, x: int, columns: int, **settings: Any) -> int:
        """Add a step whose result has so many columns."""
        to = self._own(columns)
        self._add(kind, x, (), to=to, **settings)
        return to

    def _add(self, kind: str, x: int, windows: Sequence[OfWindows], **settings: Any) -> None:
        kinds = (OfWindows * len(windows))(*windows)
        self._steps.append(RowStep(kind=_KINDS.index(kind), x=x, windows=kinds, kinds=len(kinds), **settings))

    def _own(self, columns: int) -> int:
        """The place of so many entries of each row."""
        place = self._next
        self._sizes[place] = columns
        self._next += columns
        return place

    def _keep(self, values: _Floats) -> int:
        """The address of a copy that starts on a cache line."""
        own = aligned(values.size)
        own.reshape(values.shape)[...] = values
        self._kept.append(own)
        return int(own.ctypes.data)


def _activation(activation: str, alpha: float | None) -> dict[str, Any]:
    """The fields of a step that say what follows its sums."""
    alpha = _ALPHA.get(activation, 0.0) if alpha is None else alpha
    return {"function": ACTIVATIONS.index(activation), "alpha": alpha}


def _numbers(x: Tensor) -> _Floats:
    return x.detach().to("cpu", torch.float32).numpy()

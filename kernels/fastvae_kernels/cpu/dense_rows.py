"""Steps of a plan on rows in one call of the compiled library: dense layers on a few rows, or the scores at its end.

Most of what a row of a small model takes is what lies between its layers. Here nothing does: the steps are a table that
one function walks over, and their results lie on its stack.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from ctypes import byref, c_int64, c_void_p
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checks import ACTIVATIONS
from .library import LIKELIHOODS, NO_LOGVAR, OF_COLUMN, OF_ENTRY, DenseStep, RowCall, library

__all__ = ["GIVEN", "DenseCall", "DenseSteps"]

# The place of the caller's rows; a second array of them is at GIVEN - 1, and so on.
GIVEN = -1
# As in the source: outputs of a panel of weights, and floats that the steps of a row may make.
_LANES, _ROOM = 16, 8192
_LINE = 64
_KINDS = ("linear", "affine", "add", "clamp", "score", "divergence")
_ALPHA = {"leaky_relu": 0.01, "elu": 1.0}
_VALUES = ("any", "finite", "unit interval")

_Kept: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32], Callable[[], bool]]
Values: TypeAlias = Literal["any", "finite", "unit interval"]


class DenseSteps:
    """Steps on flat float32 rows. Each method adds one and gives the place of what it makes, for others to read.

    ``fits`` tells whether a row's results have room in a call.
    """

    def __init__(self) -> None:
        self.steps: list[DenseStep] = []
        self.kept: list[NDArray[np.float32]] = []  # what steps point to
        self.room = 0  # floats of a row

    @property
    def fits(self) -> bool:
        """Whether there is room on the stack for what they make of a row."""
        return self.room <= _ROOM

    def linear(self, x: int, weight: Tensor, bias: Tensor | None, activation: str, alpha: float | None) -> int:
        """activation(x @ weight.T + bias); weight [outputs, inputs], bias [outputs]."""
        outputs, inputs = weight.shape
        panels = -(-outputs // _LANES)
        padded = np.zeros((panels * _LANES, inputs), np.float32)
        padded[:outputs] = _numbers(weight)
        packed = padded.reshape(panels, _LANES, inputs).transpose(0, 2, 1)
        shift = np.zeros(panels * _LANES, np.float32)
        if bias is not None:
            shift[:outputs] = _numbers(bias)
        sizes = {"inputs": inputs, "outputs": outputs}
        return self._activated("linear", x, packed, shift, activation, alpha, **sizes)

    def affine(self, x: int, scale: Tensor, shift: Tensor, activation: str, alpha: float | None) -> int:
        """activation(x * scale + shift); scale and shift [columns]."""
        sizes = {"inputs": len(scale), "outputs": len(scale)}
        return self._activated("affine", x, _numbers(scale), _numbers(shift), activation, alpha, **sizes)

    def add(self, x: int, other: int, columns: int) -> int:
        """x + other."""
        return self._step("add", x, columns, other=other, inputs=columns, outputs=columns)

    def clamp(self, x: int, columns: int, least: float, most: float) -> int:
        """x within [least, most]."""
        return self._step("clamp", x, columns, inputs=columns, outputs=columns, least=least, most=most)

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

    def call(
        self,
        given: Sequence[NDArray[np.float32]],
        outputs: Sequence[int],
        made: NDArray[np.float32],
        values: Values = "any",
    ) -> Callable[[], bool]:
        """What does the steps from the arrays `given` to `made`, each time it is called.

        It says False, and does nothing, where values of the first of `given` are not what they have to be. All arrays
        are in C order, and are not kept, their addresses are; `made` [outputs, rows, *shape] has the results at the
        places `outputs`, which have the same shape a row. Of fewer rows than that the first comes again after the last.
        """
        call = RowCall(
            steps=(DenseStep * len(self.steps))(*self.steps),
            places=(c_int64 * len(outputs))(*outputs),
            given=(c_void_p * len(given))(*(array.ctypes.data for array in given)),
            given_rows=(c_int64 * len(given))(*map(len, given)),
            columns=(c_int64 * len(given))(*(math.prod(array.shape[1:]) for array in given)),
            out=made.ctypes.data,
            count=len(self.steps),
            outputs=len(outputs),
            rows=made.shape[1],
            width=math.prod(made.shape[2:]),
            room=self.room,
            values=_VALUES.index(values),
        )
        return partial(library().fastvae_dense_rows, byref(call))

    def _activated(
        self,
        kind: str,
        x: int,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32],
        activation: str,
        alpha: float | None,
        **sizes: int,
    ) -> int:
        settings: dict[str, Any] = {"weight": self._keep(weight), "bias": self._keep(bias), **sizes}
        alpha = _ALPHA.get(activation, 0.0) if alpha is None else alpha
        function = ACTIVATIONS.index(activation)
        return self._step(kind, x, sizes["outputs"], function=function, alpha=alpha, **settings)

    def _step(self, kind: str, x: int, columns: int, **settings: Any) -> int:
        """Add a step whose result has so many columns."""
        place = self.room
        self.steps.append(DenseStep(kind=_KINDS.index(kind), x=x, to=place, **settings))
        self.room += -(-columns // _LANES) * _LANES
        return place

    def _keep(self, values: NDArray[np.float32]) -> int:
        """The address of a copy that starts on a cache line."""
        own = np.empty(values.size + _LINE // 4, np.float32)
        first = -own.ctypes.data % _LINE // 4
        own = own[first : first + values.size]
        own.reshape(values.shape)[...] = values
        self.kept.append(own)
        return int(own.ctypes.data)


def _numbers(x: Tensor) -> NDArray[np.float32]:
    return x.detach().to("cpu", torch.float32).numpy()


class DenseCall:
    """Steps as a function of a few rows; safe to call from several threads at once.

    Nothing is allocated but the result: where the rows and it lie meanwhile is kept for the next call.

    Args:
        steps: all of them; `fits`.
        given: the shape of a row.
        outputs: places of the results, which all have the shape `shape` a row.
        values: what the rows' have to be.
        most: rows of a call.
    """

    def __init__(
        self,
        steps: DenseSteps,
        given: tuple[int, ...],
        outputs: Sequence[int],
        shape: tuple[int, ...],
        values: Values,
        most: int,
    ) -> None:
        assert steps.fits
        self.most = most
        self._steps, self._given, self._shape, self._values = steps, given, shape, values
        self._places, self._outputs = outputs, range(len(outputs))
        # By number of rows: tuples of rows, results and the call that reads and writes them.
        self._idle: list[list[_Kept]] = [[] for _ in range(most + 1)]

    def __call__(self, x: NDArray[np.float32]) -> list[NDArray[np.float32]] | None:
        """The results, each (rows, *shape), of at most `most` float32 rows (rows, *given).

        None if their values are not what they have to be. x may have any strides.
        """
        rows = len(x)
        idle = self._idle[rows]
        try:
            own = idle.pop()
        except IndexError:
            own = self._new(rows)
        given, made, call = own
        given[...] = x
        found = made.copy() if call() else None
        idle.append(own)
        return None if found is None else [found[output] for output in self._outputs]

    def _new(self, rows: int) -> _Kept:
        given = np.empty((rows, *self._given), np.float32)
        made = np.empty((len(self._places), rows, *self._shape), np.float32)
        return given, made, self._steps.call([given], self._places, made, self._values)

"""The steps that a likelihood adds to a plan: from the decoder's features to parameters, their mean, and a row's score.

Parameters that take positive values only are logarithms. Those that no row changes are weights, called ``d:``, the
segment's number where there are several, and the parameter.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from fastvae.errors import UnsupportedError
from fastvae.heads import (
    Bernoulli,
    ByCondition,
    Counts,
    Laplace,
    Likelihood,
    Mixed,
    Multinomial,
    Parametric,
    Predicted,
    PredictedGaussian,
    StudentT,
)
from fastvae.likelihoods import OPERANDS, constants
from fastvae.plan.building import Building

# The keyword of an op that takes an operand so.
KEYWORDS = ("zero_logits",)


class LikelihoodSteps:
    """The steps of one likelihood, or of a ``part`` of a mixed one."""

    def __init__(self, building: Building, likelihood: Likelihood, part: str = "") -> None:
        self._to, self._likelihood, self._part = building, likelihood, part
        self._parts = []
        if isinstance(likelihood, Mixed):
            for index, (segment, columns, features) in enumerate(likelihood.spans()):
                steps = LikelihoodSteps(building, segment.likelihood, f"{index}.")
                self._parts.append((steps, segment.stack, columns, features))

    def parameters(self, features: str, x: str | None) -> tuple[str, ...]:
        """Those that differ from row to row; ``x`` are the rows themselves, for a library size that is theirs."""
        likelihood = self._likelihood
        if isinstance(likelihood, Mixed):
            found: tuple[str, ...] = ()
            for steps, stack, columns, share in self._parts:
                own = self._to.stack(stack, self._columns(features, share))
                own = self._renamed(own, f"{steps._part}features")
                data = None if x is None or not steps.reads_library() else self._columns(x, columns)
                found += steps.parameters(own, data)
            return found
        if isinstance(likelihood, PredictedGaussian):
            return self._to.head(likelihood.head, features, (f"{self._part}mean_x", f"{self._part}logvar_x"))
        return self._of_sources(likelihood, features, x) if isinstance(likelihood, Parametric) else (features,)

    def reads_library(self) -> bool:
        """Whether a row's own sum is its library size."""
        if self._parts:
            return any(steps.reads_library() for steps, *_ in self._parts)
        return isinstance(self._likelihood, Counts) and self._likelihood.library == "observed"

    def mean(self, parameters: tuple[str, ...], output: str | None = "output") -> str:
        """E[x|z]; the location of what has none."""
        likelihood = self._likelihood
        if isinstance(likelihood, Mixed):
            means = tuple(steps.mean(own, None) for steps, own, _ in self._split(parameters))
            width = sum(self._to.shapes[name][0] for name in means)
            return self._to.step("concat", means, output, (width,))
        shape = self._to.shapes[parameters[0]]
        if isinstance(likelihood, Bernoulli):
            return self._to.step("affine", (parameters[0], None, None), output, shape, {"activation": "sigmoid"})
        if not isinstance(likelihood, Parametric) or isinstance(likelihood, Laplace | StudentT):
            return parameters[0]
        operands = self._operands(parameters)
        inputs = (operands["location"], operands.get("zero_logits"))
        return self._to.step("expectation", inputs, output, shape, {"likelihood": likelihood.kind})

    def nll(self, parameters: tuple[str, ...], x: str, mask: str | None, output: str | None = "nll") -> str:
        """-log p(x|z), of the entries where ``mask`` is True if there is one.

        Raises:
            UnsupportedError: ``mask``, for a likelihood that needs a row whole.
        """
        if self._parts:
            total = None
            for index, (steps, own, columns) in enumerate(self._split(parameters)):
                seen = None if mask is None else self._columns(mask, columns)
                part = steps.nll(own, self._columns(x, columns), seen, None)
                last = index == len(self._parts) - 1
                total = part if total is None else self._to.step("add", (total, part), output if last else None, ())
            assert total is not None
            return total
        if mask is not None and self.reads_library():
            raise UnsupportedError(
                f"impute: the {self._likelihood.kind} likelihood takes a row's own total, which missing entries leave "
                "unknown; give the spec library 'fixed' and a library_size"
            )
        whole = isinstance(self._likelihood, Multinomial)
        name = self._score(parameters, x, mask, None if whole else output)
        return self._to.step("less_total", (name, x), output, ()) if whole else name

    def _score(self, parameters: tuple[str, ...], x: str, mask: str | None, output: str | None) -> str:
        kind = OPERANDS[self._likelihood.kind]
        operands = self._operands(parameters)
        keywords = {name: operands.pop(name) for name in KEYWORDS if name in operands}
        return self._to.step(kind.op, (*operands.values(), x, mask), output, (), None, keywords)

    def _operands(self, parameters: tuple[str, ...]) -> dict[str, str]:
        """All parameters of the op by name, in its order: what differs from row to row, and constants."""
        made = iter(parameters)
        found = {}
        fixed = constants(self._likelihood, self._to.weights, "w:")
        for name in OPERANDS[self._likelihood.kind].names:
            if name in fixed:
                found[name] = f"d:{self._part}likelihood.{name}"
                self._to.weights[found[name]] = fixed[name]
            elif (given := next(made, None)) is not None:
                found[name] = given
        return found

    def _split(self, parameters: tuple[str, ...]) -> list[tuple[LikelihoodSteps, tuple[str, ...], tuple[int, int]]]:
        """Each part, its parameters, and its columns."""
        found, low = [], 0
        for steps, _, columns, _ in self._parts:
            high = low + steps._likelihood.row_parameters
            found.append((steps, parameters[low:high], columns))
            low = high
        return found

    def _columns(self, name: str, span: tuple[int, int]) -> str:
        """Channels or columns ``span`` of a buffer, as a view."""
        shape = self._to.shapes[name]
        if span == (0, shape[0]):
            return name
        made = (span[1] - span[0], *shape[1:])
        return self._to.step("columns", (name,), None, made, {"first": span[0], "last": span[1]})

    def _of_sources(self, likelihood: Parametric, features: str, x: str | None) -> tuple[str, ...]:
        share = self._to.shapes[features][0] // likelihood.chunks
        chunks = (self._columns(features, (i * share, (i + 1) * share)) for i in range(likelihood.chunks))
        start = next(chunks)
        location = self._to.stack(likelihood.location, start)
        shape = self._to.shapes[location]
        found = [self._linked(likelihood, location, x)]
        for name, source in likelihood.sources():
            output = f"{self._part}{OPERANDS[likelihood.kind].of(name)}_x"
            if isinstance(source, ByCondition):
                inputs = (self._to.condition(), f"w:{source.name}", None)
                found.append(self._to.step("linear", inputs, output, shape))
            elif isinstance(source, Predicted):
                raw = self._to.stack(source.stack, next(chunks, start))
                found.append(self._logarithm(raw, source.form, source.eps, output))
        return tuple(found)

    def _linked(self, likelihood: Parametric, location: str, x: str | None) -> str:
        """The location, or the logarithm of the mean of counts."""
        if not isinstance(likelihood, Counts):
            return location
        if likelihood.link != "softmax":
            return self._logarithm(location, "log" if likelihood.link == "exp" else "softplus", 0.0, None)
        shape = self._to.shapes[location]
        shares = self._to.step("log_softmax", (location,), None, shape)
        if x is not None and likelihood.library == "observed":
            return self._to.step("add_log_total", (shares, x), None, shape)
        if likelihood.library_size == 1:
            return shares
        name = f"d:{self._part}likelihood.log_library"
        self._to.weights[name] = torch.full(shape, math.log(likelihood.library_size), dtype=torch.float64)
        return self._to.step("affine", (shares, None, name), None, shape)

    def _logarithm(self, raw: str, form: str, eps: float, output: str | None) -> str:
        """The logarithm of a positive parameter of which the features hold ``form``."""
        if form == "log":
            return raw if output is None else self._renamed(raw, output)
        shape = self._to.shapes[raw]
        parametrization = "softplus_std" if form == "softplus" else "variance"
        attributes = {"parametrization": parametrization, "eps": eps, "minimum": None, "maximum": None}
        if form == "identity":
            return self._to.step("logvar", (raw,), output, shape, attributes)
        twice = self._to.step("logvar", (raw,), None, shape, attributes)
        half = f"d:half.{shape[0]}"
        self._to.weights[half] = torch.full(shape[:1], 0.5, dtype=torch.float64)
        return self._to.step("affine", (twice, half, None), output, shape)

    def _renamed(self, name: str, output: str) -> str:
        """The buffer that the last step makes, under another name; any other as it is."""
        steps = self._to.steps
        if steps[-1].outputs != (name,):
            return name
        steps[-1] = replace(steps[-1], outputs=(output,))
        self._to.shapes[output] = self._to.shapes.pop(name)
        return output

"""The public face of a model: ``VAE`` with its verbs.

A verb tries the short way first, clean rows straight into a session; hands images of another size to the same model for
that size; and otherwise leaves the work to ``long_way``, ``generation`` or ``interpolation``.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import numpy as np
import torch

from fastvae import long_way, noise
from fastvae.arrays import Array
from fastvae.errors import UnsupportedError
from fastvae.evidence import Estimator, LogLikelihood
from fastvae.fitting import check_sampler, with_sampler
from fastvae.formats import native
from fastvae.generation import Samples, check_generation
from fastvae.imputation import Imputer, warn_of
from fastvae.interpolation import check_interpolation, interpolated
from fastvae.model import Model, fingerprint
from fastvae.plan import Explanation
from fastvae.posterior import Posterior
from fastvae.runtime import Engine, Settings
from fastvae.scoring import from_parts, metric_of
from fastvae.spec import ModelSpec, PointHead
from fastvae.walk import Walker
from fastvae.warmup import warm_up

P = ParamSpec("P")
R = TypeVar("R")


def _in_use(method: Callable[Concatenate[VAE, P], R]) -> Callable[Concatenate[VAE, P], R]:
    """``method`` as one caller at work, for whom ``close`` waits; it raises once the model is closed."""

    @wraps(method)
    def guarded(self: VAE, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._engine.in_use:
            return method(self, *args, **kwargs)

    return guarded


class VAE:
    """A loaded model.

    Verbs take NumPy arrays or torch tensors of floats and return the same kind: rows first, then
    ``spec.input_shape`` for data, ``spec.latent_shape`` for latents. Image rows may come flattened, and then
    go back flattened from ``reconstruct`` and ``impute``. Results are float32 (float64 in that precision), but
    ``impute`` keeps the dtype of its rows. Any number of rows goes, also none; beyond its result a verb holds one
    internal batch (``impute`` of several imputations also a copy of the rows), and smaller ones where memory is short.

    A VAE may be used from several threads. ``with fastvae.load(...) as vae:`` closes it at the end. Besides their own
    errors, verbs raise OutOfMemoryError if not even one row fits in memory, ClosedError after :meth:`close`, and
    ForkError in a process forked from one that has the model on a GPU.

    A model whose layers fit images of any size (``spec.any_size``) takes rows and latents of other sizes than its
    spec's as well.

    Loaded with ``scaled_latents``, ``encode``, ``embed``, ``decode`` and ``interpolate`` have latents as a diffusion
    model does; ``generate``, scores and imputation, which know the prior of the model's own, are as without.

    Where a model is conditional, ``condition`` is floats (rows, dim) or (dim,), or integer labels.
    """

    def __init__(self, model: Model, settings: Settings | None = None) -> None:
        self._set(model, Engine(model, settings or Settings()))

    def _set(self, model: Model, engine: Engine) -> None:
        self._model, self._engine, self._walker = model, engine, Walker(engine)
        # Here, for a single row's sake: each further thing to look up costs it microseconds where caches are cold.
        self._has_variance = not isinstance(model.spec.posterior, PointHead)
        self._closed = model.spec.prior is None

    def _check_variance(self, what: str) -> None:
        if not self._has_variance:
            raise UnsupportedError(f"{what}: this model's encoder is deterministic, its posterior has no variance")

    def _for_images(self, name: str, x: Any, *, latent: bool = False) -> VAE | None:
        """The same model for the size of images ``x``, or of latents; None if that is its own, or ``x`` has none."""
        sized = self._walker.other_size(name, x, latent=latent)
        if sized is None:
            return None
        other = object.__new__(VAE)
        other._set(replace(self._model, spec=sized), self._engine.at(sized))
        return other

    def __repr__(self) -> str:
        spec, engine = self.spec, self._engine
        name = f"{spec.name!r}, " if spec.name else ""
        return f"VAE({name}input_shape={spec.input_shape}, latent_shape={spec.latent_shape}, device='{engine.device}')"

    @property
    def spec(self) -> ModelSpec:
        """What the model is."""
        return self._model.spec

    @property
    def card(self) -> dict[str, str]:
        """Where the weights come from, as text by field; empty if the checkpoint says nothing."""
        return dict(self._model.card)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of spec and weights, in hexadecimal: equal for equal models, wherever they came from.

        Raises:
            ClosedError: the model is closed.
        """
        with self._engine.in_use:
            return fingerprint(self._model)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self._engine.device

    @property
    def precision(self) -> str:
        """The precision it runs in."""
        return self._engine.precision

    @_in_use
    def warmup(
        self,
        batch_sizes: Sequence[int] = (1, 16, 256),
        verbs: Sequence[str] = ("generate", "encode", "reconstruct", "score"),
    ) -> None:
        """Do beforehand what the first calls would do: plans, and on a GPU compiling kernels and recording graphs.

        Args:
            batch_sizes: numbers of rows to be ready for. Graphs of these sizes are added to the prepared ones.
            verbs: the verbs to be ready for, of generate, encode, embed, decode, reconstruct, interpolate, score and
                impute; for pixels generate_uint8, decode_uint8 and reconstruct_uint8.

        Raises:
            InputError: no such verb, or a size below 1.
        """
        warm_up(self._engine, batch_sizes, verbs)

    def close(self) -> None:
        """Free the memory the model takes, on the device and off it, once the calls of other threads are done.

        What verbs have returned stays. May be called again; must not be called from inside a verb.
        """
        self._engine.close()
        self._model = self._engine.model

    def __enter__(self) -> VAE:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def generate(
        self,
        n: int,
        seed: int = 0,
        start: int = 0,
        output: Literal["mean", "sample", "uint8"] = "mean",
        condition: Any = None,
        *,
        kind: Literal["numpy", "torch"] = "numpy",
    ) -> Array:
        """Samples from the model: decode z from its prior, or from what :meth:`fit_sampler` fitted.

        Sample ``i`` is a function of ``seed`` and ``start + i`` alone: any part of a larger run can be generated
        again by itself, on any machine (bit for bit in batch-invariant mode on one kind of device).

        Args:
            n: number of samples.
            seed: unsigned 64-bit integer.
            start: index of the first sample.
            output: ``mean`` for E[x|z], ``sample`` for a draw from p(x|z), ``uint8`` for E[x|z] as pixels, see
                :meth:`decode`.
            condition: for conditional models, see the class.
            kind: ``numpy``, or ``torch`` for a tensor on the model's device.

        Returns:
            (n, *input_shape); for ``uint8`` as :meth:`decode` has it.

        Raises:
            InputError: an argument out of range.
            NumericsError, UnsupportedError: for ``uint8``, as :meth:`decode`.
        """
        n, seed, start = check_generation(n, seed, start, output, kind)
        if kind == "numpy" and output != "sample" and condition is None:
            verb = long_way.verb_for("generate", output)
            found = self._engine.generate_directly(n, seed=seed, start=start, verb=verb)
            if found is not None:
                return found
        with self._engine.in_use:
            return Samples(self._walker, n, seed, start, output, condition, kind).rows(0, n)

    @_in_use
    def stream(
        self,
        n: int,
        *,
        batch_size: int | None = None,
        seed: int = 0,
        start: int = 0,
        output: Literal["mean", "sample", "uint8"] = "mean",
        condition: Any = None,
        kind: Literal["numpy", "torch"] = "numpy",
    ) -> Iterator[Array]:
        """The samples of :meth:`generate` as an iterator of batches, in memory that does not grow with ``n``.

        Args:
            batch_size: rows of a batch; the last may have fewer. None takes the internal batch.

        Returns:
            Iterator of (batch_size, *input_shape); for ``uint8`` as :meth:`decode` has it.

        Raises:
            InputError: an argument out of range; at the call, not at the first batch.
            UnsupportedError: for ``uint8``, as :meth:`decode`, at the call too.
        """
        n, seed, start = check_generation(n, seed, start, output, kind)
        samples = Samples(self._walker, n, seed, start, output, condition, kind)
        if batch_size is not None:
            batch_size = noise.check_count("batch_size", batch_size, least=1)
        return samples.batches(batch_size)

    def encode(self, x: Array, *, condition: Any = None, invalid: str = "raise") -> Posterior:
        """The approximate posterior q(z|x).

        Args:
            x: (rows, *input_shape).
            invalid: what to do about rows with NaN or Inf: ``raise``; ``mask``, a NaN result; ``propagate``.

        Returns:
            A Posterior: ``mean``, ``logvar`` (rows, *latent_shape), ``sample()``, ``kl()``.

        Raises:
            InputError: ``x`` or ``condition`` of the wrong kind, shape, dtype or range.
        """
        verb = self._engine.for_caller("encode")
        if condition is None and invalid == "raise" and (direct := self._engine.direct(verb, x)):
            return Posterior(direct[0], direct[1], self._engine)
        if (sized := self._for_images("x", x)) is not None:
            return sized.encode(x, condition=condition, invalid=invalid)
        return long_way.encode(self._walker, x, verb, condition, invalid)

    def encode_stream(
        self, batches: Iterable[tuple[Any, ...]], *, invalid: str = "raise", ahead: int = 2
    ) -> Generator[tuple[Any, Posterior]]:
        """:meth:`encode` for an iterator of batches, none of which need to be in memory together.

        Args:
            batches: (ids, x), or (ids, x, condition) for a conditional model; ``ids`` is anything, and comes back.
            invalid: see :meth:`encode`.
            ahead: batches that a thread reads beforehand, while the model computes; 0 reads each when its turn comes.

        Returns:
            Iterator of (ids, Posterior), in the order of ``batches``. Closing it closes ``batches`` too.

        Raises:
            InputError: ``ahead`` out of range, at the call; a batch that is none, or whose rows :meth:`encode` refuses,
                in its turn. So is whatever ``batches`` raises.
        """

        def encode(x: Any, condition: Any) -> Posterior:
            return self.encode(x, condition=condition, invalid=invalid)

        return long_way.encode_batches(encode, batches, ahead)

    def embed(self, x: Array, *, condition: Any = None, invalid: str = "raise") -> Array:
        """The posterior mean of each row: (rows, *latent_shape). Arguments and errors as :meth:`encode`."""
        verb = self._engine.for_caller("embed")
        if condition is None and invalid == "raise" and (direct := self._engine.direct(verb, x)):
            return direct[0]
        if (sized := self._for_images("x", x)) is not None:
            return sized.embed(x, condition=condition, invalid=invalid)
        return long_way.embed(self._walker, x, verb, condition, invalid)

    def reconstruct(
        self,
        x: Array,
        *,
        condition: Any = None,
        invalid: str = "raise",
        output: Literal["mean", "uint8"] = "mean",
    ) -> Array:
        """E[x|z] at the posterior mean: in the shape of ``x``, or for ``uint8`` as :meth:`decode` has it.

        Arguments and errors as :meth:`encode` and :meth:`decode`; ``uint8`` takes ``invalid="raise"`` only.
        """
        verb = long_way.verb_for("reconstruct", output)
        if condition is None and invalid == "raise" and (direct := self._engine.direct(verb, x)):
            return direct[0]
        if (sized := self._for_images("x", x)) is not None:
            return sized.reconstruct(x, condition=condition, invalid=invalid, output=output)
        return long_way.reconstruct(self._walker, x, verb, condition, invalid)

    def decode(self, z: Array, *, condition: Any = None, output: Literal["mean", "uint8"] = "mean") -> Array:
        """E[x|z], the mean of the likelihood.

        Args:
            z: latents, (rows, *latent_shape).
            output: ``mean`` for its numbers, ``uint8`` for pixels: each the integer nearest to 255 times what is 0 at
                the model's black and 1 at its white, ties to even, clamped. Those are 0 and 1 under a Bernoulli
                likelihood, else ``spec.pixel_range``.

        Returns:
            (rows, *input_shape); pixels of images (rows, height, width, channels), as image libraries take them.

        Raises:
            InputError: ``z`` or ``condition`` of the wrong kind, shape, dtype; NaN or Inf; no such output.
            NumericsError: a pixel would be NaN, which no byte is.
            UnsupportedError: nothing says which values are black and white.
        """
        verb = self._engine.for_caller(long_way.verb_for("decode", output))
        if condition is None and (direct := self._engine.direct(verb, z)):
            return direct[0]
        if (sized := self._for_images("z", z, latent=True)) is not None:
            return sized.decode(z, condition=condition, output=output)
        return long_way.decode(self._walker, z, verb, condition)

    @_in_use
    def interpolate(
        self,
        a: Array,
        b: Array,
        steps: int,
        *,
        space: Literal["input", "latent"] = "input",
        path: Literal["linear", "spherical"] = "linear",
        condition: Any = None,
    ) -> Array:
        """Decode points evenly spaced on the path between two rows' latents.

        Args:
            a, b: rows of data (their posterior means are joined), or of latents with ``space="latent"``.
            steps: points per pair of rows, both ends included; at least 2.
            path: ``linear``, or ``spherical`` as :func:`fastvae.paths.between` has it: points of a prior in many
                dimensions lie near a sphere, from which a straight line strays (White 2016, arXiv:1609.04468).

        Returns:
            (rows, steps, *input_shape).

        Raises:
            InputError: arguments of the wrong kind, shape, dtype or range, or as many rows not in both.
        """
        if (sized := self._for_images("a", a, latent=space == "latent")) is not None:
            return sized.interpolate(a, b, steps, space=space, path=path, condition=condition)
        steps = check_interpolation(steps, space, path)
        if space == "input":
            a, b = self.embed(a, condition=condition), self.embed(b, condition=condition)
        return interpolated(self._walker, a, b, steps, path, condition)

    def score(
        self,
        x: Array,
        metric: Literal["reconstruction", "kl", "elbo", "iwae", "mse", "l2"] = "reconstruction",
        samples: int | None = None,
        seed: int = 0,
        beta: float = 1.0,
        *,
        condition: Any = None,
        start: int = 0,
        invalid: str = "raise",
    ) -> Array:
        """How surprising each row is; higher is more anomalous.

        ==============  ============================================================================
        reconstruction  -log p(x|z) under the model's own likelihood, nats
        kl              KL(q(z|x) || p(z)), nats; estimated where the prior is no standard normal
        elbo            the negative evidence lower bound, reconstruction + beta * kl, nats
        iwae            -log of the importance-weighted estimate of p(x) with ``samples`` draws, nats
        mse, l2         mean squared difference to E[x|z]; Euclidean distance to it
        ==============  ============================================================================

        Args:
            x: (rows, *input_shape).
            samples: None scores at z = posterior mean, so that scores are deterministic; K averages over K draws
                z ~ q(z|x) of ``seed``. ``iwae`` always samples, and None means one draw. ``kl`` and ``elbo`` under a
                prior that is a mixture estimate the divergence by K draws; None takes 100 of them for it.
            seed: unsigned 64-bit integer.
            beta: weight of the KL in ``elbo``.
            start: index of the first row's noise: a data set scored in pieces gives the same scores.
            invalid: see :meth:`encode`.

        Returns:
            (rows,).

        Raises:
            InputError: an argument of the wrong kind, shape, dtype or range.
            UnsupportedError: ``kl``, ``elbo`` or ``iwae`` of a deterministic encoder.
        """
        what = metric_of(metric, samples, seed, beta, closed=self._closed)
        if not self._has_variance and what.needs_variance:
            self._check_variance(f"metric {what.name!r}")
        if type(start) is not int or start != 0:
            start = noise.check_count("start", start)
        short = what.at_mean and condition is None and invalid == "raise"
        if short and (direct := self._engine.direct(what.verbs[0], x)):
            return from_parts(direct, x.size // len(x), what).astype(np.float32, copy=False)
        if (sized := self._for_images("x", x)) is not None:
            return sized.score(x, metric, samples, seed, beta, condition=condition, start=start, invalid=invalid)
        return long_way.score(self._walker, x, what, condition, start, invalid)

    def log_likelihood(
        self,
        x: Array,
        samples: int = 5000,
        seed: int = 0,
        *,
        bound: Literal["iwae", "elbo"] = "iwae",
        condition: Any = None,
        start: int = 0,
        invalid: str = "raise",
    ) -> LogLikelihood:
        """An estimate of log p(x) for each row, with its standard error, in memory that does not grow with ``samples``.

        Args:
            x: (rows, *input_shape).
            samples: draws z ~ q(z|x) a row, at least 2.
            seed: unsigned 64-bit integer.
            bound: ``iwae``, the importance-weighted estimate, whose bias vanishes as draws grow; ``elbo``, whose bias,
                KL(q(z|x) || p(z|x)), does not. Their negatives are what :meth:`score` gives for so many draws.
            start: index of the first row's noise: a data set in pieces has the same estimates.
            invalid: see :meth:`encode`.

        Returns:
            A LogLikelihood: ``estimate``, ``standard_error``, ``effective_sample_size``, each (rows,), and ``mean()``.

        Raises:
            InputError: an argument of the wrong kind, shape, dtype or range.
            UnsupportedError: the encoder is deterministic.
        """
        what = Estimator(bound, samples, seed)
        self._check_variance("log_likelihood")
        start = noise.check_count("start", start)
        if (sized := self._for_images("x", x)) is not None:
            options: dict[str, Any] = {"bound": bound, "condition": condition, "start": start, "invalid": invalid}
            return sized.log_likelihood(x, samples, seed, **options)
        return long_way.log_likelihood(self._walker, x, what, condition, start, invalid)

    @_in_use
    def impute(
        self,
        x: Array,
        mask: Array | None = None,
        method: Literal["importance", "metropolis", "gibbs"] = "importance",
        n_imputations: int = 1,
        seed: int = 0,
        *,
        samples: int = 300,
        condition: Any = None,
        start: int = 0,
        rounds: int = 3,
        diagnostics: bool = False,
    ) -> Array:
        """Fill in missing entries; observed ones come back untouched.

        Warns with ImputationWarning if the values of more than a tenth of the rows rest on too few samples; see
        :class:`fastvae.Imputation`.

        Args:
            x: (rows, *input_shape); NaN marks missing entries.
            mask: boolean, in the shape of ``x``: True where an entry is missing as well, whatever ``x`` holds there.
            method: see :mod:`fastvae.imputation`.
            n_imputations: 1 returns the estimated mean of the missing given the observed entries, the best guess
                in squared error, and of one-hot columns the most probable category; m > 1 returns m draws (multiple
                imputation).
            seed: unsigned 64-bit integer.
            samples: importance samples of a round, or steps of a chain.
            start: index of the first row's noise: a data set imputed in pieces gives the same values.
            rounds: of ``importance``: from the second on a row is filled with the estimate of the one before, and
                latents are proposed for that. 1 suits encoders trained on incomplete rows, filled with their means.
            diagnostics: also return how far the values can be trusted.

        Returns:
            The shape of ``x``, or (n_imputations, *shape of x); with ``diagnostics`` an Imputation that holds it.

        Raises:
            InputError: an argument of the wrong kind, shape, dtype or range; Inf.
            UnsupportedError: the encoder is deterministic.
        """
        what = Imputer(method, n_imputations, samples, seed, rounds)
        start = noise.check_count("start", start)
        walker = (self._for_images("x", x) or self)._walker
        self._check_variance("impute")
        found, incomplete = long_way.impute(walker, x, mask, what, condition, start)
        warn_of(found, what, incomplete, stacklevel=3)
        return found if diagnostics else found.values

    def fit_sampler(
        self,
        x: Array,
        components: int = 10,
        seed: int = 0,
        *,
        covariance: Literal["full", "diagonal"] = "full",
        condition: Any = None,
    ) -> VAE:
        """A model whose :meth:`generate` draws z from a mixture of Gaussians fitted to the latents of ``x``.

        Where the encoder's posteriors together do not look like the prior, samples of the prior do not look like the
        data; those of the mixture do more. Scores and imputation keep the prior. ``save`` writes the mixture as well.

        Args:
            x: (rows, *input_shape), best those of training; the mixture is fitted to one draw z ~ q(z|x) for each.
            components: of the mixture, at most as many as rows.
            seed: of the draws and of scikit-learn's fit, an unsigned 64-bit integer.
            covariance: of a component; ``full`` is for flat latents.

        Returns:
            A model loaded as this one is; this one stays as it was.

        Raises:
            InputError: an argument of the wrong kind, shape, dtype or range; fewer rows than components.
            UnsupportedError: scikit-learn is not installed, or a model for images of any size or with scaled latents.
        """
        check_sampler(self.spec, self._engine.settings.scaled_latents, components, covariance)
        z = self.encode(x, condition=condition).sample(seed)
        return VAE(with_sampler(self._model, z, components, covariance, seed), self._engine.settings)

    @_in_use
    def explain(self, verb: str = "reconstruct", rows: int = 1, device: str = "auto") -> Explanation:
        """What a verb does and should take: its steps with FLOPs, bytes and predicted time, and its peak memory.

        Args:
            verb: one of :data:`fastvae.plan.VERBS`, the parts that the methods are made of, or of their forms in
                :func:`fastvae.plan.build_plan`.
            rows: how many at once.
            device: ``cpu``, measured on the spot; a GPU by name, such as ``H100``; ``auto`` is the model's own.

        Returns:
            An Explanation; ``print`` it for a table.

        Raises:
            InputError: ``rows`` or ``device`` is none.
            UnsupportedError: an unknown verb, or a precision that the device has no rate for.
        """
        return self._engine.explain(self._engine.for_caller(verb), noise.check_count("rows", rows, least=1), device)

    @_in_use
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model in fastvae's own format: one ``.safetensors`` file that :func:`fastvae.load` reads.

        Raises:
            InputError: the name does not end in ``.safetensors``.
            OutputError: the file cannot be written; nothing is left under its name.
        """
        native.write(self._model, path)

    @_in_use
    def export(self, path: str | os.PathLike[str], verb: str = "decode") -> None:
        """Write a verb as an ONNX file: float32, opset 20, with a dynamic batch, checked by ONNX's own checker.

        Args:
            path: a name that ends in ``.onnx``.
            verb: ``encode``, ``decode``, ``reconstruct``, ``generate`` (the noise is an input), ``elbo``,
                ``decode_uint8`` or any other of :data:`fastvae.plan.VERBS`. Inputs and outputs are described in
                :func:`fastvae.plan.build_plan`.

        Raises:
            InputError: the name does not end in ``.onnx``.
            OutputError: the file cannot be written; nothing is left under its name.
            UnsupportedError: an unknown verb, a model beyond the 2 GiB of one file, or ``onnx`` is not installed.
        """
        if importlib.util.find_spec("onnx") is None:
            raise UnsupportedError("export: onnx is not installed; pip install 'fastvae-engine[cpu]'")
        from fastvae.onnx import export

        export(self._model, self._engine.for_caller(verb), path)

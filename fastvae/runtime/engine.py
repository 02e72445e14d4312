"""The engine: one model's verbs on tensors, one internal batch at a time.

Everything above it (scoring, imputation, the public API) sees only these methods; how a plan is executed,
in which precision, by which implementation and in which tiles is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import fastvae_kernels
from fastvae import noise
from fastvae.errors import UnsupportedError
from fastvae.heads import Prior
from fastvae.likelihoods import UNIT_INTERVAL, output_head
from fastvae.model import Model, memory_bytes
from fastvae.plan import (
    PLAIN_VERBS,
    SCALED_VERBS,
    SIZE_FREE_VERBS,
    Explanation,
    Plan,
    Target,
    build_plan,
    check_scaling,
    explain,
)
from fastvae.priors import Mixture, StandardNormal, mixture
from fastvae.runtime.batching import TILE, blocks, even_part, padded
from fastvae.runtime.choice import Choice
from fastvae.runtime.executor import Draw, Executor
from fastvae.runtime.graphs import MOST_ROWS, PREPARED, CudaGraphs, GraphDevice, GraphExecutor
from fastvae.runtime.latents import prior
from fastvae.runtime.lifetime import Lifetime
from fastvae.runtime.memory import in_batches
from fastvae.runtime.numerics import NARROW, Numerics
from fastvae.runtime.ort import DirectCall, OnnxExecutor, Values
from fastvae.runtime.resources import AnyExecutor, Resources
from fastvae.runtime.results import Results
from fastvae.runtime.settings import (
    PRECISIONS,
    Settings,
    plan_target,
    resolve_device,
    resolve_implementation,
    resolve_precision,
)
from fastvae.runtime.side_by_side import SerialThreads, Sharing
from fastvae.runtime.sizes import resized
from fastvae.runtime.split import SplitExecutor, split
from fastvae.runtime.staging import Stages
from fastvae.runtime.tiling import Costs, TiledExecutor, fit, references, sessions, weight_bytes
from fastvae.spec import ModelSpec
from fastvae_kernels.parts import part_of

# Sizes of images, besides the model's own, whose engines are kept: the ones last used.
MOST_SIZES = 16

# Where a verb's outputs go: contiguous tensors of the engine's dtype, or None for new ones.
Out: TypeAlias = Sequence[Tensor] | None


class Engine:
    """A model ready to run: its plans are built on first use, one per verb, and shared between threads.

    ``graphs`` is where plans are recorded as graphs; None takes the device's, unless the settings say no. ``of`` is the
    engine of the same model for images of another size, whose weights and sessions it shares.

    Raises:
        InputError: an unknown device or batch size.
        UnsupportedError: a precision or implementation that is unknown, or cannot run this model; scaled latents of a
            model that does not say how.
    """

    def __init__(
        self, model: Model, settings: Settings, *, graphs: GraphDevice | None = None, of: Engine | None = None
    ) -> None:
        self.model, self.settings = model, settings
        self._of = of
        self._sizes: dict[tuple[int, ...], Engine] = {}
        self.spec = model.spec
        if settings.scaled_latents:
            check_scaling(model.spec)
        self.device = resolve_device(settings.device)
        self.precision = resolve_precision(settings.precision, model)
        self.dtype = PRECISIONS[self.precision]
        invariant = self.batch_invariant = settings.batch_invariant
        self.impl = resolve_implementation(settings.impl, self.device, self.precision, batch_invariant=invariant)
        # The ops outside plans (noise, reparameterization) have no form in ONNX Runtime.
        self._op_impl = "auto" if self.impl == "onnxruntime" else Choice.of(self.impl).base
        self._threads = torch.get_num_threads()
        if settings.threads is not None:
            if self.impl != "onnxruntime":
                raise UnsupportedError("threads: only impl='onnxruntime' has its own; use torch.set_num_threads")
            self._threads = noise.check_count("threads", settings.threads, least=1, most=1024)
        self._arena = settings.arena
        self._sharing = Sharing(self._threads, always=self.batch_invariant)
        self._target = plan_target(self.impl, self.device)
        self.head = output_head(model)
        self._batch_size = settings.batch_size
        if settings.batch_size is not None:
            self._batch_size = noise.check_count("batch_size", settings.batch_size, least=1)
        self._max_memory = None if settings.max_memory is None else memory_bytes(settings.max_memory)
        self._fits_images = self._max_memory is not None and self.spec.any_size
        self._graphs = settings.graphs
        self._mixes = bool(model.spec.mixtures())  # samples are decoded from latents that no plan draws
        self._resources = self._new_resources(graphs or self._graph_device())
        if settings.impl != "auto" and of is None and not self._fits_images:
            self._executor("reconstruct")

    def _new_resources(self, graphs: GraphDevice | None) -> Resources:
        return Resources(self.device, graphs, Results() if self._arena else Results(0))

    def _graph_device(self) -> GraphDevice | None:
        return CudaGraphs(self.device) if self._graphs and self.device.type == "cuda" else None

    @property
    def in_use(self) -> Lifetime:
        """``with engine.in_use:`` is one caller at work, for whom closing waits."""
        return self._resources.lifetime

    @property
    def stages(self) -> Stages:
        """What carries rows of host memory to the device and back."""
        return self._resources.stages

    @property
    def results(self) -> Results:
        """Where the memory of large results comes from."""
        return self._resources.results

    @property
    def output_dtype(self) -> torch.dtype:
        """Dtype of what verbs return: float64 in float64, else float32."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def batch_rows(self, verb: str) -> int:
        """Rows of one internal batch of ``verb``."""
        rows = self._batch_size or self._rows_that_fit(self._executor(verb))
        return min(rows, self._resources.limits.get(verb, rows))

    def next_rows(self, rows: int, size: int) -> int:
        """How many of ``rows`` to take next where at most ``size`` are run at once.

        As many as can be where batches of that size are prepared or made of whole tiles, else parts of about one size.
        """
        prepared = self.batch_invariant or self.impl != "onnxruntime"
        return min(rows, size) if prepared else even_part(rows, size)

    def side_by_side(self, verbs: Sequence[str], rows: int, size: int) -> tuple[SerialThreads, int] | None:
        """What runs internal batches of all these verbs side by side, and how many of ``rows`` each has.

        None where they run one after the other.
        """
        if self._threads == 1:
            return None
        found = (self._executor(verb) for verb in verbs)
        beside = all(isinstance(executor, OnnxExecutor) and executor.side_by_side for executor in found)
        return self._sharing.of(rows, size) if beside else None

    def _rows_that_fit(self, executor: AnyExecutor) -> int:
        """Rows of an internal batch of its own choice; whole tiles in batch-invariant mode."""
        rows = executor.rows_that_fit
        tile = executor.tile_rows
        return max(rows // tile, 1) * tile if self.batch_invariant else rows

    def limit_rows(self, verb: str, rows: int) -> None:
        """Give internal batches of ``verb`` at most ``rows`` rows from now on."""
        self._resources.limits[verb] = rows
        self._resources.direct.pop(verb, None)

    def release(self) -> None:
        """Give back what memory can be spared."""
        self._resources.release()

    def at(self, spec: ModelSpec) -> Engine:
        """The engine for images of the size of ``spec``, which is this one's spec but for that."""
        with self.in_use, self._resources.lock:
            found = self._sizes.pop(spec.input_shape, None)
            if found is None:
                found = Engine(replace(self.model, spec=spec), self.settings, of=self)
                if len(self._sizes) == MOST_SIZES:
                    del self._sizes[next(iter(self._sizes))]
            self._sizes[spec.input_shape] = found
            return found

    @property
    def looks(self) -> Numerics:
        """``with engine.looks:`` is around internal batches, whose results are then known to be finite."""
        return self._resources.numerics

    def close(self) -> None:
        """Free all memory, once callers inside have left; using it afterwards raises ClosedError."""
        for engine in list(self._sizes.values()):
            engine.close()
        self._resources.close()
        self.model = replace(self.model, weights={})

    def warmup(self, verb: str, rows: int) -> None:
        """Run ``verb`` on a batch of zeros, of ``rows`` rows or as many as are run at once.

        Whatever is compiled, loaded or recorded for it is from then on.
        """

        def run(low: int, high: int) -> None:
            executor = self._executor("decode" if verb == "generate" else verb)
            if isinstance(executor, GraphExecutor) and not self.batch_invariant:
                executor.prepare(high - low)
            if verb == "generate":
                self.generate(high - low, seed=0, start=0, condition=self._zeros(verb, high - low).get("condition"))
            else:
                self._run(verb, high - low, self._zeros(verb, high - low))

        in_batches(self, [verb], 0, min(rows, self.batch_rows(verb)), lambda: self.batch_rows(verb), run)

    def _zeros(self, verb: str, rows: int) -> dict[str, Tensor]:
        """Inputs for ``verb``'s plan: zeros, and a mask of which no entry is set."""
        plan = self._executor(verb).plan
        types = {name: torch.bool if name == "mask" else self.dtype for name in plan.inputs}
        return {
            name: torch.zeros(rows, *plan.shapes[name], dtype=dtype, device=self.device)
            for name, dtype in types.items()
        }

    def __getstate__(self) -> dict[str, object]:
        """Without what belongs to this process: a copy in another builds its own."""
        with self.in_use:
            return {name: value for name, value in self.__dict__.items() if name != "_resources"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._resources = self._new_resources(self._graph_device())

    def for_caller(self, verb: str) -> str:
        """The verb whose plan runs for a caller's ``verb``: one of scaled latents where they are asked for.

        Scores, imputation and the prior have the model's own.
        """
        return SCALED_VERBS.get(verb, verb) if self.settings.scaled_latents else verb

    def is_conditional(self, verb: str) -> bool:
        """Whether the plan of ``verb`` reads a condition."""
        return self.spec.condition is not None and "condition" in self._executor(verb).plan.inputs

    def explain(self, verb: str, rows: int, device: str) -> Explanation:
        """The plan of ``verb`` at ``rows`` rows and what it should take on a device; ``auto`` is the engine's own.

        Errors as :func:`fastvae.plan.explain` and :func:`fastvae.plan.build_plan`.
        """
        own = "cpu" if self.device.type == "cpu" else part_of(self.device).target
        name = own if device == "auto" else str(device)
        plan = build_plan(
            self.model,
            verb,
            target="reference" if name.lower() == "cpu" else "triton",
            dtype=self.dtype,
            device="meta",  # nothing will run: shapes are enough
            batch_invariant=self.batch_invariant,
            tf32=self.precision == "tf32",
        )
        return explain(plan, rows, name, self.precision)

    def generate(
        self, rows: int, *, seed: int, start: int, condition: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """E[x|z] for the latent samples of indices start to start + rows: (rows, *input_shape)."""
        # Noise is the same for any number of rows, so only the decoder runs in tiles; and no graph records a seed.
        # Nor has it tiles of its own.
        graph = self._resources.graphs is not None and rows <= MOST_ROWS
        if self.batch_invariant or graph or self._fits_images or self._mixes:
            return self.decode(self.latent_samples(rows, seed=seed, start=start), condition, out)
        draw = Draw(rows, seed, start, self.device, self.dtype)
        return self._run("generate", rows, {"condition": condition}, draw, _one(out))[0]

    def encode(
        self, x: Tensor, condition: Tensor | None = None, out: Out = None, *, verb: str = "encode"
    ) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each (rows, *latent_shape); ``verb`` may be ``encode_scaled``."""
        mean, logvar = self._run(verb, len(x), {"x": x, "condition": condition}, out=out)
        return mean, logvar

    def embed(
        self, x: Tensor, condition: Tensor | None = None, out: Tensor | None = None, *, verb: str = "embed"
    ) -> Tensor:
        """Mean of q(z|x): (rows, *latent_shape); ``verb`` may be ``embed_scaled``."""
        return self._run(verb, len(x), {"x": x, "condition": condition}, out=_one(out))[0]

    def reconstruct(self, x: Tensor, condition: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """E[x|z] at the mean of q(z|x): (rows, *input_shape)."""
        return self._run("reconstruct", len(x), {"x": x, "condition": condition}, out=_one(out))[0]

    def decode(
        self, z: Tensor, condition: Tensor | None = None, out: Tensor | None = None, *, verb: str = "decode"
    ) -> Tensor:
        """E[x|z]: (rows, *input_shape) for z of shape (rows, *latent_shape); ``verb`` may be ``decode_scaled``."""
        return self._run(verb, len(z), {"z": z, "condition": condition}, out=_one(out))[0]

    def parameters(self, z: Tensor, condition: Tensor | None = None) -> tuple[Tensor, ...]:
        """Parameters of p(x|z) for z of shape (rows, *latent_shape), as OutputHead reads them."""
        return self._run("parameters", len(z), {"z": z, "condition": condition})

    def nll(self, z: Tensor, x: Tensor, *, condition: Tensor | None = None) -> Tensor:
        """-log p(x|z) in nats: (samples, rows).

        ``z`` is (samples, rows, *latent_shape), ``x`` (rows, *input_shape).
        """
        return self._run_samples("score", z, {"x": x, "condition": condition})[0]

    def squared_error(self, z: Tensor, x: Tensor, *, condition: Tensor | None = None) -> Tensor:
        """Sum of squared differences between x and E[x|z]: (samples, rows), for shapes as in :meth:`nll`."""
        return self._run_samples("squared_error", z, {"x": x, "condition": condition})[0]

    def kl(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """KL(q(z|x) || N(0, I)) in nats, of a model with that prior: (rows,)."""
        return self._run("kl", len(x), {"x": x, "condition": condition})[0]

    def elbo(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """-log p(x|z) at the mean z of q(z|x), and KL(q(z|x) || N(0, I)), in nats: each (rows,); as :meth:`kl`."""
        nll, kl = self._run("elbo", len(x), {"x": x, "condition": condition})
        return nll, kl

    def distance(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Sum of squared differences between x and its reconstruction: (rows,)."""
        return self._run("distance", len(x), {"x": x, "condition": condition})[0]

    def impute(self, z: Tensor, x: Tensor, *, mask: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """-log p(x|z) over the entries where ``mask`` (rows, *input_shape) is True, and E[x|z] of all.

        Shapes (samples, rows) and (samples, rows, *input_shape), for ``z`` and ``x`` as in :meth:`nll`.
        """
        nll, output = self._run_samples("impute", z, {"x": x, "mask": mask, "condition": condition})
        return nll, output

    def posterior_samples(
        self, mean: Tensor, logvar: Tensor, *, seed: int, start: int, stream: int, samples: int
    ) -> tuple[Tensor, Tensor]:
        """Draws from q and its KL divergence to N(0, I): z (samples, rows, *latent_shape), kl (rows,).

        Row ``i`` of draw ``k`` uses the noise of index ``start + i`` in ``stream + k``.
        """
        shape = (samples, len(mean), *mean.shape[1:])
        mean, logvar = mean.flatten(1), logvar.flatten(1)

        def draw(mean: Tensor, logvar: Tensor, start: int) -> tuple[Tensor, Tensor]:
            return fastvae_kernels.reparameterize(
                mean, logvar, seed=seed, start=start, stream=stream, samples=samples, impl=self._op_impl
            )

        if not self.batch_invariant:
            z, kl = draw(mean, logvar, start)
            return z.reshape(shape), kl
        parts = [
            draw(padded(mean[low:high], TILE), padded(logvar[low:high], TILE), start + low)
            for low, high in blocks(max(len(mean), 1), TILE)
        ]
        z = torch.cat([z for z, _ in parts], dim=1)[:, : len(mean)]
        return z.reshape(shape), torch.cat([kl for _, kl in parts])[: len(mean)]

    def generate_directly(self, rows: int, *, seed: int, start: int) -> NDArray[np.float32] | None:
        """:meth:`generate` into host memory by the shortest way there is; None if it cannot be taken."""
        short = rows and self.impl == "onnxruntime" and not self._fits_images and not self._mixes
        call = self._direct_call("generate") if short else None
        if call is None:
            return None
        dim = self.spec.latent_dim
        found = call.in_batches(rows, lambda low, high: prior(high - low, dim, seed=seed, start=start + low))
        return found[0] if found else None

    @property
    def prior(self) -> StandardNormal | Mixture:
        """The prior of the latents."""
        return StandardNormal() if self.spec.prior is None else self._mixture(self.spec.prior)

    def _mixture(self, prior: Prior) -> Mixture:
        """A mixture, made once: where it is one of posteriors, that runs the encoder."""
        mixtures = self._resources.mixtures
        if prior not in mixtures:
            mixtures[prior] = mixture(prior, self.model.weights, self.device, self._posteriors)
        return mixtures[prior]

    def _posteriors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`encode` for any number of rows of weights."""
        x = x.to(self.device, self.dtype)
        parts = [self.encode(x[low:high]) for low, high in blocks(len(x), self.batch_rows("encode"))]
        mean, logvar = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return mean, logvar

    def latent_samples(self, rows: int, *, seed: int, start: int) -> Tensor:
        """z of the indices start to start + rows as samples are made of: from the sampler, if one was fitted.

        (rows, *latent_shape).
        """
        return self._drawn(self.spec.sampler or self.spec.prior, rows, seed, start, noise.PRIOR)

    def prior_samples(self, rows: int, *, seed: int, start: int, stream: int = noise.PRIOR) -> Tensor:
        """z from the prior, of the indices start to start + rows: (rows, *latent_shape)."""
        return self._drawn(self.spec.prior, rows, seed, start, stream)

    def _drawn(self, prior: Prior | None, rows: int, seed: int, start: int, stream: int) -> Tensor:
        where: dict[str, Any] = {"seed": seed, "start": start, "device": self.device, "impl": self._op_impl}
        z = fastvae_kernels.sample_normal(rows, self.spec.latent_dim, stream=stream, dtype=self.dtype, **where)
        if prior is not None:
            uniform = fastvae_kernels.sample_uniform(rows, 1, stream=noise.component_of(stream), **where)
            z = self._mixture(prior).draw(z, uniform[:, 0])
        return z.reshape(rows, *self.spec.latent_shape)

    def _run_samples(self, verb: str, z: Tensor, inputs: Mapping[str, Tensor | None]) -> tuple[Tensor, ...]:
        """A verb whose ``z`` has several samples per row of the other inputs: each output (samples, rows, ...)."""
        samples, rows = z.shape[:2]
        if self.batch_invariant:
            results = [self._run(verb, rows, {**inputs, "z": latents}) for latents in z]
            return tuple(torch.stack(parts) for parts in zip(*results, strict=True))
        condition = inputs.get("condition")
        if condition is not None:
            condition = condition.expand(samples, *condition.shape).flatten(0, 1)
        flat = {**inputs, "z": z.flatten(0, 1), "condition": condition}
        outputs = self._run(verb, samples * rows, flat)
        return tuple(output.reshape(samples, rows, *output.shape[1:]) for output in outputs)

    def _run(
        self,
        verb: str,
        rows: int,
        inputs: Mapping[str, Tensor | None],
        draw: Draw | None = None,
        out: Out = None,
    ) -> tuple[Tensor, ...]:
        """The verb's plan on all rows at once or, in batch-invariant mode, tile by tile; into ``out`` where given."""
        executor = self._executor(verb)
        given = {name: tensor for name, tensor in inputs.items() if tensor is not None and name in executor.plan.inputs}
        given = {
            name: tensor.to(self.dtype) if tensor.is_floating_point() else tensor for name, tensor in given.items()
        }
        with torch.no_grad():
            results = self._tiled(executor, rows, given, out) if self.batch_invariant else executor(given, draw, out)
            if self.precision in NARROW:
                self._resources.numerics.look(verb, self.precision, given, results)
            return results

    def _tiled(self, executor: AnyExecutor, rows: int, given: Mapping[str, Tensor], out: Out) -> tuple[Tensor, ...]:
        results = out
        size = executor.tile_rows
        for low, high in blocks(max(rows, 1), size):
            tile = {name: padded(tensor[low:high], size) for name, tensor in given.items()}
            if results is not None and low + size <= rows:
                executor(tile, None, [result[low:high] for result in results])
                continue
            parts = executor(tile)
            if results is None:
                results = [part.new_empty(rows, *part.shape[1:]) for part in parts]
            for result, part in zip(results, parts, strict=True):
                result[low:high] = part[: len(result) - low]
        return tuple(results or ())

    def direct(self, verb: str, x: object) -> list[NDArray[np.float32]] | None:
        """A verb's outputs for what a caller handed in, if it may go straight to a session; None if it may not.

        ``x`` are rows of the plan's only input.
        """
        if self._fits_images:  # another size may be run in another way
            own = self.spec.latent_shape if verb == "decode" else self.spec.input_shape
            if tuple(getattr(x, "shape", ()))[1:] != own:
                return None
        call = self._direct_call(verb)
        return None if call is None else call(x)

    def _direct_call(self, verb: str) -> DirectCall | None:
        calls = self._resources.direct
        if verb not in calls:
            calls[verb] = self._new_direct_call(verb)
        return calls[verb]

    def _new_direct_call(self, verb: str) -> DirectCall | None:
        executor = self._executor(verb)
        if not isinstance(executor, OnnxExecutor) or self.batch_invariant:
            return None
        spec, plain = self.spec, PLAIN_VERBS.get(verb, verb)
        shape = {"decode": spec.latent_shape, "generate": (spec.latent_dim,)}.get(plain, spec.input_shape)
        whole = self.head.supports == (UNIT_INTERVAL,)
        if plain not in ("decode", "generate") and self.head.supports and not whole:
            return None  # looked at more closely on the long way
        of_rows: Values = "unit interval" if whole else "finite"
        values: Values = "any" if plain == "generate" else "finite" if plain == "decode" else of_rows
        limit, results = self.batch_rows(verb), self._resources.results
        return executor.direct(shape, limit, values, self.in_use, results, self._sharing)

    def _executor(self, verb: str) -> AnyExecutor:
        held = self._resources
        if verb == "generate" and (self._fits_images or self._mixes):
            verb = "decode"
        if (found := held.executors.get(verb)) is not None:
            return found
        with held.lifetime, held.lock:
            if verb not in held.executors:
                shared = self._of is not None and verb in SIZE_FREE_VERBS
                found = self._tiles(verb) if self._fits_images else None
                held.executors[verb] = found or (self._resized(verb) if shared else self._built(verb))
            return held.executors[verb]

    def _tiles(self, verb: str) -> TiledExecutor | None:
        """The verb in tiles, if it does not fit in memory without; InputError if it does not fit at all."""
        assert self._max_memory is not None
        plan, held = self._plan(verb), (self._of or self)._resources
        with nullcontext() if self._of is None else held.lock:
            others = sum(size for name, size in held.session_bytes.items() if name != verb)
            fixed = weight_bytes(*self.model.weights.values(), *held.weights.kept) + others
        costs = Costs(fixed, self.dtype.itemsize, sessions=self.impl == "onnxruntime")
        tiling = fit(plan, costs, self._max_memory, rows=self._batch_size, tiles=verb in SIZE_FREE_VERBS)
        if tiling is None:
            held.session_bytes[verb] = costs.session(plan)
            return None
        bind = sessions(self._threads) if costs.sessions else references(self.impl, self.device, self.dtype)
        return TiledExecutor(plan, tiling, bind)

    def _plan(self, verb: str) -> Plan:
        """The plan of a verb for images of this engine's size, without kernels' fused ops."""
        target: Target = "onnx" if self.impl == "onnxruntime" else "reference"
        if verb not in SIZE_FREE_VERBS:  # it will not be run
            return build_plan(self.model, verb, target=target, dtype=self.dtype, device="meta")
        if self._of is not None:
            with self._of._resources.lock:
                plan = self._of._plan(verb)
            return resized(plan, {"x": self.spec.input_shape, "z": self.spec.latent_shape}, self.dtype)
        held = self._resources
        if verb not in held.plans:
            share = held.weights.share
            held.plans[verb] = build_plan(
                self.model, verb, target=target, dtype=self.dtype, device=self.device, share=share
            )
        return held.plans[verb]

    def _whole(self, verb: str) -> AnyExecutor:
        """What runs ``verb`` on whole images, whatever their size."""
        held = self._resources
        with held.lock:
            found = held.executors.get(verb) or held.whole.get(verb)
            if found is None or isinstance(found, TiledExecutor):
                found = held.whole[verb] = self._built(verb)
            return found

    def _built(self, verb: str) -> AnyExecutor:
        plan = build_plan(
            self.model,
            verb,
            target=self._target,
            dtype=self.dtype,
            device=self.device,
            batch_invariant=self.batch_invariant,
            tf32=self.precision == "tf32",
            share=self._resources.weights.share,
        )
        if self.impl == "onnxruntime":
            sizes = self.spec.any_size and verb in SIZE_FREE_VERBS
            parts = split(plan)
            return SplitExecutor(plan, parts, self._session) if parts else self._session(plan, any_size=sizes)
        return self._recorded(plan)

    def _session(self, plan: Plan, *, any_size: bool = False) -> OnnxExecutor:
        return OnnxExecutor(
            plan,
            threads=self._threads,
            arena=self._arena,
            batch_invariant=self.batch_invariant,
            any_size=any_size,
        )

    def _resized(self, verb: str) -> AnyExecutor:
        """The executor of the engine this one was made of, for images of this one's size."""
        assert self._of is not None
        executor = self._of._whole(verb) if self._fits_images else self._of._executor(verb)
        plan = resized(executor.plan, {"x": self.spec.input_shape, "z": self.spec.latent_shape}, self.dtype)
        return executor.resized(plan) if isinstance(executor, OnnxExecutor) else self._recorded(plan)

    def _recorded(self, plan: Plan) -> Executor | GraphExecutor:
        """The executor of a plan; on a GPU with graphs of the prepared sizes and of whole internal batches.

        In batch-invariant mode graphs are of tiles only.
        """
        executor = Executor(plan, impl=self.impl, device=self.device, dtype=self.dtype)
        if self._resources.graphs is None:
            return executor
        whole = self._batch_size or executor.rows_that_fit
        return GraphExecutor(
            executor, self._resources.graphs, (executor.tile_rows,) if self.batch_invariant else (*PREPARED, whole)
        )


def _one(out: Tensor | None) -> Out:
    return None if out is None else (out,)

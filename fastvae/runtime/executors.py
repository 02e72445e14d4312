"""What runs each verb of a model.

A verb is run by the first of these that there is: tiles, where an image does not fit ``max_memory`` whole; the session
or plan of another size of images, for this one; a plan of its own. That is one call of the compiled kernels, or a
session of ONNX Runtime, with the steps that it has no form for after it; or the ops one by one, on a GPU recorded as
graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import replace

from torch import Tensor

from fastvae.model import Model
from fastvae.plan import DECODERS, MEAN_VERBS, SIZE_FREE_VERBS, Plan, Target, build_plan, levels
from fastvae.runtime.compiled import CompiledExecutor, compiled_steps
from fastvae.runtime.eight_bits import in_eight_bits, layers_that_bear
from fastvae.runtime.executor import Executor
from fastvae.runtime.graphs import PREPARED, GraphExecutor
from fastvae.runtime.magnitudes import magnitudes
from fastvae.runtime.ort import OnnxExecutor
from fastvae.runtime.pixels import PixelExecutor, pixel_bytes
from fastvae.runtime.resolved import Resolved
from fastvae.runtime.resources import AnyExecutor, Resources
from fastvae.runtime.sizes import resized
from fastvae.runtime.split import split
from fastvae.runtime.split_executor import WITHOUT_FORM, SplitExecutor
from fastvae.runtime.tiling import Costs, TiledExecutor, fit, references, sessions, weight_bytes


class Executors:
    """A model's executors, one a verb: made on first use, kept in ``held`` and shared between threads.

    Args:
        how: how the model is run.
        origin: those of the same model for its own size of images, whose weights and sessions these share.
    """

    def __init__(self, model: Model, how: Resolved, held: Resources, origin: Executors | None = None) -> None:
        self.model = model
        self._how, self._held, self._origin = how, held, origin

    def of(self, verb: str) -> AnyExecutor:
        """What runs ``verb``: for ``generate`` the decoder, where no plan draws the latents.

        Raises:
            InputError: it does not fit ``max_memory``, in no tiles either.
            UnsupportedError: an unknown verb, or one that the implementation cannot run.
        """
        held = self._held
        if self._how.decodes_samples:
            verb = DECODERS.get(verb, verb)
        if (found := held.executors.get(verb)) is not None:
            return found
        with held.lifetime, held.lock:
            if verb not in held.executors:
                held.executors[verb] = self._made(verb)
            return held.executors[verb]

    def _made(self, verb: str) -> AnyExecutor:
        if self._how.fits_images and (tiles := self._tiles(verb)) is not None:
            return tiles
        return self._built(verb) if self._origin is None or verb not in SIZE_FREE_VERBS else self._resized(verb)

    def eight_bit_layers(self) -> Collection[str]:
        """The group norms that write 8 bits, by the names that ``layer_of`` gives them; none but in ``fp8``."""
        if self._how.precision != "fp8":
            return ()
        with self._held.lifetime, self._held.lock:
            return self._eight_bit_layers()

    def _eight_bit_layers(self) -> Collection[str]:
        """:meth:`eight_bit_layers` with this engine's lock held; images of all sizes have the same."""
        if self._origin is not None:
            return self._origin.eight_bit_layers()
        how, held = self._how, self._held
        if held.eight_bit_layers is None:
            held.eight_bit_layers = layers_that_bear(self.model, impl=how.impl, device=how.device, dtype=how.dtype)
        return held.eight_bit_layers

    def _magnitudes(self, verb: str, target: Target, *, batch_invariant: bool) -> dict[str, float]:
        """Of a plan's buffers, where they may be beyond the precision's range."""
        how = self._how
        if how.precision != "fp16":
            return {}
        return magnitudes(
            self.model,
            verb,
            target=target,
            impl=how.impl,
            device=how.device,
            batch_invariant=batch_invariant,
        )

    def forget(self) -> None:
        """Let go of the weights: nothing is made any more."""
        self.model = replace(self.model, weights={})

    def _tiles(self, verb: str) -> TiledExecutor | PixelExecutor | None:
        """The verb in tiles, if it does not fit in memory without; InputError if it does not fit at all.

        Bytes are made of a whole image's numbers: tiles know no other.
        """
        how = self._how
        if verb in MEAN_VERBS:
            pixels = self._plan(verb)
            tiles = self._tiles_of(verb, self._plan(MEAN_VERBS[verb]), pixel_bytes(pixels, how.dtype))
            return None if tiles is None else PixelExecutor(pixels, tiles, how.op_impl, **levels(self.model.spec))
        return self._tiles_of(verb, self._plan(verb), 0)

    def _tiles_of(self, verb: str, plan: Plan, besides: int) -> TiledExecutor | None:
        """The tiles of the ``plan`` behind a verb, for which so many bytes are needed ``besides``."""
        how, held = self._how, (self._origin or self)._held
        assert how.max_memory is not None
        with nullcontext() if self._origin is None else held.lock:
            others = sum(size for name, size in held.session_bytes.items() if name != verb)
            fixed = weight_bytes(*self.model.weights.values(), *held.weights.kept) + others
        costs = Costs(fixed + besides, how.dtype.itemsize, sessions=how.impl == "onnxruntime")
        tiling = fit(plan, costs, how.max_memory, rows=how.batch_size, tiles=verb in SIZE_FREE_VERBS)
        if tiling is None:
            held.session_bytes[verb] = costs.session(plan)
            return None
        bind = sessions(how.threads) if costs.sessions else references(how.impl, how.device, how.dtype)
        return TiledExecutor(plan, tiling, bind)

    def _plan(self, verb: str) -> Plan:
        """The plan of a verb for images of this size, without kernels' fused ops."""
        target: Target = "onnx" if self._how.impl == "onnxruntime" else "reference"
        dtype = self._how.dtype
        if verb not in SIZE_FREE_VERBS:  # it will not be run
            return build_plan(self.model, verb, target=target, dtype=dtype, device="meta")
        if self._origin is not None:
            with self._origin._held.lock:
                plan = self._origin._plan(verb)
            return self._sized(plan)
        held = self._held
        if verb not in held.plans:
            largest = self._magnitudes(verb, target, batch_invariant=False)
            plan = build_plan(
                self.model,
                verb,
                target=target,
                dtype=dtype,
                device=self._how.device,
                largest=largest,
                share=self._share,
            )
            held.plans[verb] = self._narrowed(plan)
        return held.plans[verb]

    @property
    def _share(self) -> Callable[[Tensor], Tensor] | None:
        """What holds equal weights once; nothing where those in 16 bits may not be what is needed."""
        return None if self._how.precision == "fp8" else self._held.weights.share

    def _narrowed(self, plan: Plan) -> Plan:
        """The plan with what bears it in 8 bits, if that is the precision."""
        if self._how.precision != "fp8":
            return plan
        return self._held.weights.shared(in_eight_bits(plan, self._eight_bit_layers()))

    def _resized(self, verb: str) -> AnyExecutor:
        """The executor of the size this one was made from, for images of this one."""
        assert self._origin is not None
        executor = self._origin._whole(verb) if self._how.fits_images else self._origin.of(verb)
        plan = self._sized(executor.plan)
        return executor.resized(plan) if isinstance(executor, OnnxExecutor) else self._recorded(plan)

    def _whole(self, verb: str) -> AnyExecutor:
        """What runs ``verb`` on whole images, whatever their size."""
        held = self._held
        with held.lock:
            found = held.executors.get(verb) or held.whole.get(verb)
            if found is None or isinstance(found, TiledExecutor | PixelExecutor):
                found = held.whole[verb] = self._built(verb)
            return found

    def _sized(self, plan: Plan) -> Plan:
        """A plan of another size of images, for this one."""
        spec = self.model.spec
        return resized(plan, {"x": spec.input_shape, "z": spec.latent_shape}, self._how.dtype)

    def _built(self, verb: str) -> AnyExecutor:
        how = self._how
        sizes = self.model.spec.any_size and verb in SIZE_FREE_VERBS
        # There a row's bits are its own in any plan; padded columns, as sessions need them, have no form.
        if how.compiled and how.batch_invariant and not sizes:
            compiled = self._compiled(self._new_plan(verb, batch_invariant=False))
            if compiled is not None:
                return compiled
        plan = self._new_plan(verb, batch_invariant=how.batch_invariant)
        if how.impl == "onnxruntime":
            parts = split(plan, WITHOUT_FORM)
            return SplitExecutor(plan, parts, self._session) if parts else self._session(plan, any_size=sizes)
        return self._recorded(self._narrowed(plan))

    def _new_plan(self, verb: str, *, batch_invariant: bool) -> Plan:
        how = self._how
        return build_plan(
            self.model,
            verb,
            target=how.target,
            dtype=how.dtype,
            device=how.device,
            batch_invariant=batch_invariant,
            tf32=how.precision == "tf32",
            largest=self._magnitudes(verb, how.target, batch_invariant=batch_invariant),
            share=self._share,
        )

    def _compiled(self, plan: Plan) -> CompiledExecutor | None:
        """The plan in the compiled kernels, where they may and can have it."""
        how = self._how
        threads = 1 if how.batch_invariant else how.threads  # a session's tiles would be padded
        steps = compiled_steps(plan, threads) if how.compiled else None
        return None if steps is None else CompiledExecutor(plan, steps, how.threads)

    def _session(self, plan: Plan, *, any_size: bool = False) -> OnnxExecutor | CompiledExecutor:
        """The compiled kernels, where they can have the plan and images have one size; else a session."""
        how = self._how
        compiled = None if any_size else self._compiled(plan)
        return compiled or OnnxExecutor(
            plan,
            threads=how.threads,
            arena=how.arena,
            batch_invariant=how.batch_invariant,
            any_size=any_size,
            compiled=how.compiled and not how.batch_invariant,
        )

    def _recorded(self, plan: Plan) -> Executor | GraphExecutor:
        """The executor of a plan; on a GPU with graphs of the prepared sizes and of whole internal batches.

        In batch-invariant mode graphs are of tiles only.
        """
        how = self._how
        executor = Executor(plan, impl=how.impl, device=how.device, dtype=how.dtype)
        if self._held.graphs is None:
            return executor
        whole = how.batch_size or executor.rows_that_fit
        return GraphExecutor(
            executor, self._held.graphs, (executor.tile_rows,) if how.batch_invariant else (*PREPARED, whole)
        )

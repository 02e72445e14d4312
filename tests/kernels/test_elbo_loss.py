"""`elbo_loss` as a loss: values and gradients against autograd in float64, constraints, tracers, and refusals."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastvae_kernels import ElboLoss, elbo_loss, implementations
from fastvae_kernels.cpu import divergence_gradients
from fastvae_kernels.cpu import elbo_loss as on_cpu
from fastvae_kernels.testing import EAGER, assert_within, oracle
from tests.kernels.support import DEVICE, NARROW, assert_guards_stand, guarded, interpreted, needs_compiled

IMPLS = implementations("elbo_loss")
OPTIONS: dict[str, dict[str, Any]] = {
    "mean": {},
    "sum": {"reduction": "sum", "beta": 0.25},
    "none": {"reduction": "none", "beta": 2.0},
    "free_bits": {"free_bits": 0.9, "beta": 3.0},
    "free_bits_sum": {"free_bits": 0.9, "reduction": "sum"},
    "above_capacity": {"capacity": 0.5, "beta": 10.0},
    "below_capacity": {"capacity": 40.0, "reduction": "sum"},
}
KINDS = ("bernoulli", "squared_error", "row", "shared", "scalar")
"""Likelihoods; the last three are Gaussians, by whose log-variance it is."""
DIFFERENTIABLE = ("output", "mean", "logvar", "output_logvar")


def make(
    kind: str,
    n: int = 3,
    shape: tuple[int, ...] = (5,),
    samples: int = 2,
    *,
    latent: tuple[int, ...] = (4,),
    masked: bool = False,
    dtype: torch.dtype = torch.float32,
    spread: float = 1.5,
) -> dict[str, Any]:
    """Arguments of the loss."""
    generator = torch.Generator().manual_seed(n * 100 + len(shape))

    def normal(*size: int) -> Tensor:
        return (torch.randn(size, generator=generator, dtype=torch.float64) * spread).to(DEVICE, dtype)

    rows = samples * n
    of_logvar = {"row": (rows, *shape), "shared": shape, "scalar": ()}.get(kind)
    return {
        "output": normal(rows, *shape),
        "data": normal(n, *shape).sigmoid(),
        "mean": normal(n, *latent),
        "logvar": normal(n, *latent),
        "likelihood": "gaussian" if of_logvar is not None else kind,
        "output_logvar": None if of_logvar is None else normal(*of_logvar),
        "mask": (torch.rand(n, *shape, generator=generator) < 0.7).to(DEVICE) if masked else None,
    }


def gradients(arguments: dict[str, Any], loss: Any, factor: Tensor | float) -> dict[str, Tensor]:
    """Those of the sum of `factor` times a loss, by whatever has one."""
    leaves = {k: arguments[k].detach().requires_grad_() for k in DIFFERENTIABLE if arguments[k] is not None}
    value = (loss(**{**arguments, **leaves})[0] * factor).sum()
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return {k: torch.zeros_like(leaves[k]) if g is None else g for k, g in zip(leaves, found, strict=True)}


def with_impl(impl: str) -> Any:
    return lambda **arguments: elbo_loss(**arguments, impl=impl)


def wide(arguments: dict[str, Any], dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    return {k: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in arguments.items()}


def check(arguments: dict[str, Any], impl: str, factor: Tensor | float = 1.0) -> None:
    """Values and gradients are within the budget: autograd of eager's, in the same precision, sets it."""
    plain = interpreted(impl)
    results, exact = elbo_loss(**arguments, impl=impl), oracle("elbo_loss", arguments)
    eager = EAGER["elbo_loss"](**wide(arguments, torch.float32))
    for result, truth, own in zip(results, exact, eager, strict=True):
        # Means and sums of a few terms: one rounding of each, where eager may by chance have none.
        assert_within(result, truth, own, extra=2.0**-22 * truth.abs(), interpreted=plain)
    found = gradients(arguments, with_impl(impl), factor)
    true = gradients(wide(arguments), EAGER["elbo_loss"], factor)
    own = gradients(arguments, EAGER["elbo_loss"], factor)
    for name, gradient in found.items():
        assert gradient.dtype == arguments[name].dtype
        unit = torch.finfo(gradient.dtype).eps
        assert_within(gradient, true[name], own[name], extra=2 * unit * true[name].abs(), interpreted=plain)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_values_and_gradients_within_budget(dtype: torch.dtype, kind: str, impl: str) -> None:
    """Every option in float32; of 16 bits those that gradients go through otherwise."""
    for index, (name, options) in enumerate(OPTIONS.items()):
        if dtype != torch.float32 and name not in ("mean", "none"):
            continue
        check({**make(kind, masked=index % 2 == 1, dtype=dtype), **options}, impl)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_values(kind: str) -> None:
    """By finite differences, in float64, of a loss that is scaled afterwards."""
    for options in OPTIONS.values():
        arguments = make(kind, 2, (3,), latent=(2,), dtype=torch.float64, masked=True)
        names = [name for name in DIFFERENTIABLE if arguments[name] is not None]

        def loss(*leaves: Tensor, given: Any = (arguments, options, names)) -> Tensor:
            arguments, options, names = given
            changed = {**arguments, **dict(zip(names, leaves, strict=True))}
            return 1.5 * elbo_loss(**changed, **options).loss

        assert torch.autograd.gradcheck(loss, [arguments[name].requires_grad_() for name in names])


@pytest.mark.parametrize("impl", IMPLS)
@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.sampled_from(sorted(OPTIONS)),
    st.integers(1, 20),
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.integers(1, 3),
    st.booleans(),
)
def test_any_shape(impl: str, kind: str, options: str, n: int, shape: list[int], samples: int, masked: bool) -> None:
    check({**make(kind, n, tuple(shape), samples, latent=(2, 3), masked=masked), **OPTIONS[options]}, impl)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_rows_are_weighed_row_by_row(kind: str, impl: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        check({**make(kind, dtype=dtype), "reduction": "none"}, impl, torch.linspace(-1, 2, 6, device=DEVICE))


@needs_compiled
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_of_a_cpu_meet(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and columns of tiles that are smaller than a row, and that hold a few, of whole rows and joined ones."""
    for entries in (7, 64):
        monkeypatch.setitem(on_cpu.__globals__, "_TILE", entries)
        for name in ("mean", "sum", "none"):
            check({**make(kind, 5, (21,), masked=entries == 7), **OPTIONS[name]}, "cpu")


@needs_compiled
@pytest.mark.parametrize("kind", KINDS)
def test_threads_do_not_show(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = make(kind, 40, (700,), latent=(30,), masked=True)
    monkeypatch.setitem(on_cpu.__globals__, "_ENTRIES_PER_THREAD", 1000)
    monkeypatch.setitem(divergence_gradients.__globals__, "_ENTRIES_PER_THREAD", 100)
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            terms = elbo_loss(**arguments, impl="cpu")
            found.append([*terms, *gradients(arguments, with_impl("cpu"), 1.0).values()])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@needs_compiled
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_in_place_are_the_same_and_take_no_memory(kind: str) -> None:
    """Of images by pixel, too; with a factor, and with a loss of rows."""
    for reduction, images in (("mean", False), ("sum", True), ("none", False)):
        arguments = {**make(kind, 3, (4, 2, 2), masked=True), "reduction": reduction}
        for name in ("output", "output_logvar") if images else ():
            if arguments[name] is not None and arguments[name].dim() == 4:
                arguments[name] = arguments[name].contiguous(memory_format=torch.channels_last)
        expected = gradients(arguments, with_impl("cpu"), 1.5)
        owners: dict[str, Tensor] = {}

        def loss(*, owners: dict[str, Tensor] = owners, **given: Any) -> ElboLoss:
            for name in ("output", "output_logvar"):
                if given[name] is not None:
                    owners[name] = given[name] = given[name] * 1
            return elbo_loss(**given, inplace=True, impl="cpu")

        found = gradients(arguments, loss, 1.5)
        for name, gradient in found.items():
            assert torch.equal(gradient, expected[name])
        taken = ["output"] if kind != "row" else ["output", "output_logvar"]
        if reduction == "none" and kind in ("shared", "scalar"):
            taken = []  # the gradient is computed later, from what is still there
        for name, owner in owners.items():
            assert torch.equal(owner, arguments[name]) == (name not in taken)


@needs_compiled
def test_in_place_is_refused_where_the_values_are_needed() -> None:
    """By autograd, where the layer before needs its output; leaves, other dtypes and gaps are left alone."""
    leaf, data = torch.randn(3, 4, requires_grad=True), torch.rand(3, 4)
    loss = elbo_loss(torch.tanh(leaf), data, torch.zeros(3, 1), torch.zeros(3, 1), inplace=True).loss
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    for output in (leaf, (leaf * 1).double(), (leaf * 1).bfloat16(), torch.stack([leaf, leaf], -1)[..., 0]):
        before = output.detach().clone()
        found = elbo_loss(output, data.to(output.dtype), torch.zeros(3, 1), torch.zeros(3, 1), inplace=True).loss
        found.backward()
        assert torch.equal(output, before)
    with torch.no_grad():
        output = leaf * 1
        elbo_loss(output, data, torch.zeros(3, 1), torch.zeros(3, 1), inplace=True)
        assert torch.equal(output, leaf)


@needs_compiled
def test_where_numbers_end_it_is_as_the_reference() -> None:
    """NaN and infinity in any operand give what the reference gives, entry by entry and row by row."""
    ends = torch.tensor([math.nan, math.inf, -math.inf, 1e38, 0.0, -90.0, 95.0, 1.0])
    output, data, spread = (grid.reshape(-1, 1) for grid in torch.meshgrid(ends, ends, ends, indexing="ij"))
    for likelihood, logvar in (("bernoulli", None), ("squared_error", None), ("gaussian", spread)):
        arguments = {"output": output, "data": data, "mean": output, "logvar": data, "likelihood": likelihood}
        arguments |= {"output_logvar": logvar, "reduction": "none"}
        for a, b in zip(*(elbo_loss(**arguments, impl=impl) for impl in ("cpu", "reference")), strict=True):
            torch.testing.assert_close(a, b, equal_nan=True)
        a, b = (gradients({**arguments, "mask": None}, with_impl(impl), 1.0) for impl in ("cpu", "reference"))
        for name in a:
            torch.testing.assert_close(a[name], b[name], equal_nan=True)


@needs_compiled
def test_elementary_functions_over_their_range() -> None:
    """exp(-|x|), its log1p and expm1, through the loss: entries all over, each to a few roundings of what adds up."""
    x = torch.cat([torch.linspace(-110, 110, 40_001), torch.linspace(-2, 2, 40_001)])[:, None]
    none = torch.zeros_like(x)
    for logits, logvar in ((x, none), (none, x.clamp_max(88))):
        arguments = {"output": logits, "data": none, "mean": none, "logvar": logvar, "reduction": "none"}
        exact = elbo_loss(**{k: v.double() if isinstance(v, Tensor) else v for k, v in arguments.items()})
        for found, truth in zip(elbo_loss(**arguments, impl="cpu"), exact, strict=True):
            budget = 2.0**-24 * (6 * truth.abs() + 2 * logvar[:, 0].abs()) + 2 * 2.0**-149
            assert ((found - truth).abs() <= budget).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_layouts_do_not_matter(impl: str) -> None:
    """Images by pixel, tensors with gaps, and matrices by columns: the same gradients, laid out as their tensors."""
    for kind in ("bernoulli", "row", "shared"):
        images = make(kind, 2, (3, 4, 5))
        expected = gradients(images, with_impl(impl), 1.0)
        by_pixel = {
            k: v.contiguous(memory_format=torch.channels_last) if isinstance(v, Tensor) and v.dim() == 4 else v
            for k, v in images.items()
        }
        gaps = {k: torch.stack([v, v], -1)[..., 0] if isinstance(v, Tensor) else v for k, v in images.items()}
        for changed in (by_pixel, {**images, "output": by_pixel["output"]}, gaps):
            for name, gradient in gradients(changed, with_impl(impl), 1.0).items():
                torch.testing.assert_close(gradient, expected[name])
        assert gradients(by_pixel, with_impl(impl), 1.0)["output"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("impl", IMPLS)
def test_confident_answers_cost_little_but_something(impl: str) -> None:
    """Logits of ±10 to ±80 that are right: the loss keeps its relative accuracy, and so do gradients."""
    logits = torch.linspace(10, 80, 64, device=DEVICE).repeat(2, 1) * torch.tensor([[1.0], [-1.0]], device=DEVICE)
    none = torch.zeros(2, 1, device=DEVICE)
    output = logits.requires_grad_()
    loss = elbo_loss(output, (logits > 0).float(), none, none, reduction="sum", impl=impl).loss
    exact = torch.log1p(torch.exp(-logits.detach().double().abs())).sum()
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
    (wrong,) = torch.autograd.grad(loss, output)
    assert (wrong[1] > 0).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_extremes_are_never_nan(impl: str) -> None:
    big, none = 3e38, torch.zeros(1, 1, device=DEVICE)
    values = torch.tensor([-big, -1e4, -100.0, 0.0, 100.0, 1e4, big], device=DEVICE)
    output, spread = (grid.reshape(1, -1) for grid in torch.meshgrid(values, values, indexing="ij"))
    data = torch.zeros_like(output)
    arguments = {"output": output, "data": data, "mean": none, "logvar": none, "mask": None}
    for likelihood, logvar in (("bernoulli", None), ("squared_error", None), ("gaussian", spread)):
        given = {**arguments, "likelihood": likelihood, "output_logvar": logvar}
        assert not elbo_loss(**given, impl=impl).loss.isnan()
        assert not any(g.isnan().any() for g in gradients(given, with_impl(impl), 1.0).values())
    far = {**arguments, "output": none, "data": none, "mean": values[:, None], "logvar": values[:, None]}
    far = {**far, "output": none.repeat(7, 1), "data": none.repeat(7, 1), "likelihood": "bernoulli"}
    found = gradients({**far, "output_logvar": None, "beta": 0.0}, with_impl(impl), 1.0)
    assert not any(g.isnan().any() for g in found.values())


@pytest.mark.parametrize("impl", IMPLS)
def test_what_is_masked_out_does_not_count(impl: str) -> None:
    """NaN there reaches neither the loss nor a gradient, which is 0 there."""
    for kind in ("bernoulli", "row", "squared_error"):
        for reduction in ("mean", "none"):
            arguments = {**make(kind, 2, (40,), masked=True), "reduction": reduction}
            dirty = {**arguments, "data": arguments["data"].masked_fill(~arguments["mask"], math.nan)}
            assert torch.equal(elbo_loss(**dirty, impl=impl).loss, elbo_loss(**arguments, impl=impl).loss)
            gradient = gradients(dirty, with_impl(impl), 1.0)["output"]
            assert not gradient.isnan().any()
            assert not gradient[~arguments["mask"].repeat(2, 1)].any()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("n", "samples", "dim", "latent"), [(0, 1, 3, 2), (3, 0, 4, 2), (2, 2, 0, 3), (3, 1, 5, 0)])
def test_nothing_to_add_is_zero(n: int, samples: int, dim: int, latent: int, impl: str) -> None:
    for kind in KINDS:
        arguments = {**make(kind, n, (dim,), samples, latent=(latent,)), "reduction": "sum"}
        found = elbo_loss(**arguments, impl=impl)
        assert all(term.isfinite() for term in found)
        for name, gradient in gradients(arguments, with_impl(impl), 1.0).items():
            assert gradient.shape == arguments[name].shape


@pytest.mark.parametrize("impl", IMPLS)
def test_terms_add_up_and_are_detached(impl: str) -> None:
    arguments = make("bernoulli", samples=1)
    arguments["output"].requires_grad_()
    found = elbo_loss(**arguments, beta=0.5, impl=impl)
    assert isinstance(found, ElboLoss)
    torch.testing.assert_close(found.loss, found.reconstruction + 0.5 * found.kl)
    assert found.loss.requires_grad
    assert not found.reconstruction.requires_grad
    assert not found.kl.requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(elbo_loss(**arguments, beta=0.5, impl=impl).loss, found.loss.detach())


def test_free_bits_are_of_the_batchs_mean() -> None:
    """A dimension whose mean KL is below λ costs λ and has no gradient, whatever single rows are."""
    mean = torch.tensor([[2.0, 0.1], [0.0, 0.3]], requires_grad=True)
    logvar, nothing = torch.zeros(2, 2), torch.zeros(2, 0)
    found = elbo_loss(nothing, nothing, mean, logvar, free_bits=0.5)
    assert found.loss.item() == pytest.approx(1.0 + 0.5)
    assert found.kl.item() == pytest.approx(1.0 + 0.025)
    (gradient,) = torch.autograd.grad(found.loss, mean)
    assert torch.equal(gradient, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


def test_capacity_pulls_from_both_sides() -> None:
    for capacity, sign in ((0.5, 1.0), (2.0, -1.0)):
        mean, nothing = torch.tensor([[math.sqrt(2.0)]], requires_grad=True), torch.zeros(1, 0)
        loss = elbo_loss(nothing, nothing, mean, torch.zeros(1, 1), capacity=capacity, beta=4.0).loss
        assert loss.item() == pytest.approx(4 * abs(1 - capacity), rel=1e-6)
        (gradient,) = torch.autograd.grad(loss, mean)
        assert gradient.item() == pytest.approx(sign * 4 * math.sqrt(2.0))


@pytest.mark.parametrize("impl", IMPLS)
def test_a_graph_that_is_kept_gives_the_same_again(impl: str) -> None:
    """Also with another factor; and parts of the arguments may want no gradient."""
    arguments = make("row", dtype=torch.float32)
    for wanted in (("output",), ("output_logvar",), ("logvar",), DIFFERENTIABLE):
        leaves = [arguments[name].detach().requires_grad_() for name in wanted]
        loss = elbo_loss(**{**arguments, **dict(zip(wanted, leaves, strict=True))}, impl=impl).loss
        first, again = (torch.autograd.grad(loss, leaves, retain_graph=True) for _ in range(2))
        doubled = torch.autograd.grad(2 * loss, leaves)
        for a, b, c in zip(first, again, doubled, strict=True):
            assert torch.equal(a, b)
            torch.testing.assert_close(c, 2 * a)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_second_derivative_is_refused(impl: str) -> None:
    for reduction in ("sum", "none"):
        arguments = {**make("bernoulli"), "reduction": reduction}
        arguments["output"].requires_grad_()
        loss = elbo_loss(**arguments, impl=impl).loss.sum()
        (first,) = torch.autograd.grad(loss, arguments["output"], create_graph=True)
        with pytest.raises(NotImplementedError, match="elbo_loss is differentiable once"):
            first.square().sum().backward()


def test_scaled_losses_keep_small_gradients_of_16_bits() -> None:
    """What is too small for float16 until the loss's scale is applied is not lost, on any implementation."""
    for impl in IMPLS:
        output = torch.full((512, 1), -9.0, dtype=torch.float16, device=DEVICE).requires_grad_()
        data, latent = torch.zeros(512, 1, device=DEVICE), torch.zeros(512, 1, device=DEVICE)
        loss = elbo_loss(output, data, latent, latent, impl=impl).loss
        (gradient,) = torch.autograd.grad(2.0**13 * loss, output)
        exact = 2.0**13 / 512 / (1 + math.exp(9))
        assert gradient.double() == pytest.approx(torch.full((512, 1), exact).double(), rel=2.0**-9)


@pytest.mark.parametrize("impl", IMPLS)
def test_opcheck_with_gradients(impl: str) -> None:
    """Shape rules, strides and autograd of both ops, as the tracers see them."""
    for kind, reduction, keep in (("bernoulli", "mean", impl == "cpu"), ("row", "none", impl == "cpu")):
        a = make(kind, 2, (3, 2, 2))
        a["output"] = a["output"].contiguous(memory_format=torch.channels_last)
        for name in DIFFERENTIABLE:
            if a[name] is not None:
                a[name].requires_grad_()
        tensors = a["output"], a["data"], a["mean"], a["logvar"], a["likelihood"], a["output_logvar"], None
        overload = torch.ops.fastvae.elbo_loss.default
        torch.library.opcheck(overload, (*tensors, reduction, False, keep, keep and kind == "row", False, impl))
    weight = torch.ones(4, device=DEVICE)
    settings_ = a["output"].detach(), a["data"], a["likelihood"], a["output_logvar"].detach(), None, True, impl
    checks = ["test_schema", "test_faketensor"]
    torch.library.opcheck(torch.ops.fastvae.elbo_loss_backward.default, (weight, *settings_), test_utils=checks)


def test_compiled_and_exported_it_is_the_same() -> None:
    arguments = make("row", samples=1)
    fixed = {k: v for k, v in arguments.items() if k not in DIFFERENTIABLE}

    def step(output: Tensor, mean: Tensor, logvar: Tensor, output_logvar: Tensor, beta: float) -> Tensor:
        found = elbo_loss(
            output=output, mean=mean, logvar=logvar, output_logvar=output_logvar, **fixed, beta=beta, free_bits=0.1
        )
        return found.loss + 0 * found.kl

    leaves = [arguments[name].requires_grad_() for name in ("output", "mean", "logvar", "output_logvar")]
    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for beta in (0.5, 0.75):
        found, expected = (torch.autograd.grad(f(*leaves, beta), leaves) for f in (compiled, step))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)


def guarded_like(x: Tensor) -> tuple[Tensor, Tensor]:
    return guarded(*x.shape, dtype=x.dtype)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "samples", "dim"), [(5, 3, 70), (70, 1, 8)])
def test_kernel_writes_its_gradients_and_nothing_else(
    n: int, samples: int, dim: int, kind: str, dtype: torch.dtype
) -> None:
    from fastvae_kernels.pieces import row_pieces
    from fastvae_kernels.triton.elbo_loss import launch
    from fastvae_kernels.tuning import RowScoreConfig

    config = RowScoreConfig(64, 8, 32, 1, 64, 1, 2, 4, 128)
    a = make(kind, n, (dim,), samples, masked=True, dtype=dtype)
    weight = torch.rand(n * samples, device=DEVICE)
    of_output, memory = guarded_like(a["output"])
    of_logvar, of_logvar_memory = None, memory
    if kind == "row":
        of_logvar, of_logvar_memory = guarded_like(a["output"])
    elif a["output_logvar"] is not None:
        blocks = -(-n * samples // row_pieces(dim, config).block_rows)
        of_logvar, of_logvar_memory = guarded(blocks, dim)
    launch(
        *(weight, a["output"], a["data"], a["output_logvar"], a["mask"].view(torch.uint8), of_output, of_logvar),
        likelihood=a["likelihood"],
        config=config,
    )
    assert_guards_stand(memory)
    assert_guards_stand(of_logvar_memory)
    true = gradients({**wide(a), "reduction": "none"}, EAGER["elbo_loss"], weight.double())
    own = gradients({**a, "reduction": "none"}, EAGER["elbo_loss"], weight)
    extra = 2 * torch.finfo(dtype).eps
    budget = {"extra": extra * true["output"].abs(), "interpreted": interpreted("triton")}
    assert_within(of_output, true["output"], own["output"], **budget)
    if of_logvar is not None:
        found = of_logvar if kind == "row" else of_logvar.sum(0) if kind == "shared" else of_logvar.sum()
        budget["extra"] = extra * true["output_logvar"].abs()
        assert_within(found.to(dtype), true["output_logvar"], own["output_logvar"], **budget)


X = torch.zeros(4, 6)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"reduction": "average"}, ValueError, "reduction must be one of mean, sum, none; found 'average'"),
        ({"beta": -1.0}, ValueError, "beta must be at least 0; found -1.0"),
        ({"beta": "1"}, TypeError, "beta must be a number or a scalar tensor; found str"),
        ({"beta": X}, ValueError, "beta must have 0 axes"),
        ({"free_bits": math.nan}, ValueError, "free_bits must be at least 0; found nan"),
        ({"free_bits": X}, TypeError, "free_bits must be a number; found a tensor"),
        ({"capacity": -2}, ValueError, "capacity must be at least 0; found -2"),
        ({"capacity": 1.0, "free_bits": 0.5}, ValueError, "free_bits and capacity exclude each other"),
        ({"capacity": 1.0, "reduction": "none"}, ValueError, "reduction must be 'mean' or 'sum' with free_bits"),
        ({"free_bits": 1.0, "reduction": "none"}, ValueError, "reduction must be 'mean' or 'sum' with free_bits"),
        ({"mean": X[:2]}, ValueError, r"mean must have shape \(4, ...\), data's rows first; found \(2, 6\)"),
        ({"mean": X[:, 0]}, ValueError, "mean must have shape"),
        ({"logvar": X.double()}, TypeError, "logvar must have mean's dtype"),
        ({"logvar": X[:, :2]}, ValueError, "logvar must have shape"),
        ({"data": X[:, :2]}, ValueError, "output must have shape"),
        ({"likelihood": "gaussian"}, ValueError, "output_logvar must be a tensor for likelihood 'gaussian'"),
        ({"output_logvar": X}, ValueError, "output_logvar must be None for likelihood 'bernoulli'"),
        ({"likelihood": "laplace"}, ValueError, "likelihood must be one of bernoulli, gaussian, squared_error"),
        ({"mask": X}, TypeError, "mask must be a torch.bool tensor"),
        (
            {"impl": "cuda"},
            NotImplementedError,
            "impl of elbo_loss must be one of 'auto', 'reference', 'cpu', 'triton'",
        ),
    ],
)
def test_refusals(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        elbo_loss(**{"output": X, "data": X, "mean": X, "logvar": X, **changes})

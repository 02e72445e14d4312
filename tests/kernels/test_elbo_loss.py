"""`elbo_loss` as a loss: values and gradients against autograd in float64, constraints, and refusals."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastvae_kernels import ElboLoss, elbo_loss
from fastvae_kernels.testing import EAGER, assert_within
from tests.kernels.elbo_losses import DIFFERENTIABLE, IMPLS, KINDS, OPTIONS, check, gradients, make, wide, with_impl
from tests.kernels.support import DEVICE, NARROW, assert_guards_stand, guarded, interpreted


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


def test_dtypes_of_output_and_posterior_may_differ() -> None:
    """The wider decides who computes; gradients are as their tensors."""
    arguments = make("row")
    expected = gradients(arguments, with_impl("reference"), 1.0)
    arguments |= {"mean": arguments["mean"].double(), "logvar": arguments["logvar"].double()}
    for name, gradient in gradients(arguments, with_impl("auto"), 1.0).items():
        assert gradient.dtype == arguments[name].dtype
        torch.testing.assert_close(gradient, expected[name].to(gradient.dtype))


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


def test_scaled_losses_keep_small_gradients_of_16_bits() -> None:
    """What is too small for float16 until the loss's scale is applied is not lost, on any implementation."""
    for impl in IMPLS:
        output = torch.full((512, 1), -9.0, dtype=torch.float16, device=DEVICE).requires_grad_()
        data, latent = torch.zeros(512, 1, device=DEVICE), torch.zeros(512, 1, device=DEVICE)
        loss = elbo_loss(output, data, latent, latent, impl=impl).loss
        (gradient,) = torch.autograd.grad(2.0**13 * loss, output)
        exact = 2.0**13 / 512 / (1 + math.exp(9))
        assert gradient.double() == pytest.approx(torch.full((512, 1), exact).double(), rel=2.0**-9)


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

"""`elbo_loss` compiled for CPUs: its tiles and threads, gradients in place, and numbers where they end."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fastvae_kernels import ElboLoss, elbo_loss
from fastvae_kernels.cpu import divergence_gradients
from fastvae_kernels.cpu import elbo_loss as on_cpu
from tests.kernels.elbo_losses import KINDS, OPTIONS, check, gradients, make, with_impl
from tests.kernels.support import needs_compiled


@needs_compiled
@pytest.mark.parametrize("kind", KINDS)
def test_tiles_of_a_cpu_meet(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows and columns of tiles that are smaller than a row, and that hold a few, of whole rows and joined ones."""
    for entries in (7, 64):
        monkeypatch.setitem(on_cpu.__globals__, "_TILE", entries)
        for name in ("mean", "sum", "none"):
            check({**make(kind, 5, (21,), masked=entries == 7), **OPTIONS[name]}, "cpu")


@needs_compiled
def test_sums_of_a_gradient_that_rows_share_take_little_memory() -> None:
    """They are float64 and one for each tile's column: an eighth of the output's bytes where there are many rows."""
    tile_shape = on_cpu.__globals__["tile_shape"]
    for columns in (1, 784, 3072, 200_000):
        rows, across = tile_shape(columns, True)
        assert 1 <= across <= columns
        assert rows >= 16
    assert tile_shape(200_000, False) == (1, 16384)


@needs_compiled
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masked", [True, False])
def test_threads_do_not_show(kind: str, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = make(kind, 40, (700,), latent=(30,), masked=masked)
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
    for reduction, images, masked in (
        ("mean", False, True),
        ("mean", False, False),
        ("sum", True, True),
        ("none", 0, 1),
    ):
        arguments = {**make(kind, 3, (4, 2, 2), masked=bool(masked)), "reduction": reduction}
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
def test_in_place_takes_no_memory_that_others_read() -> None:
    """Data that is part of the output, a log-variance that is the output, and a tensor that wants no gradient."""
    leaf, none = torch.randn(6, 4, requires_grad=True), torch.zeros(3, 2)
    for of_output, of_logvar in (("squared_error", False), ("gaussian", True)):
        found = []
        for inplace in (False, True):
            output = leaf * 1
            own = {"likelihood": of_output, "output_logvar": output if of_logvar else None, "inplace": inplace}
            loss = elbo_loss(output, output.detach()[:3], none, none, **own, impl="cpu").loss
            found.append([loss, *torch.autograd.grad(loss, leaf)])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    constant = torch.randn(3, 4)
    before, spread = constant.clone(), torch.zeros(3, 4, requires_grad=True) * 1
    settings_ = {"likelihood": "gaussian", "output_logvar": spread, "inplace": True}
    elbo_loss(constant, torch.rand(3, 4), none, none, **settings_, impl="cpu")
    assert torch.equal(constant, before)


@needs_compiled
@pytest.mark.parametrize("kind", KINDS)
def test_a_default_device_is_not_the_loss_s(kind: str) -> None:
    """What the compiled library writes into is where the arguments are, whatever PyTorch makes tensors on."""
    arguments = make(kind)
    expected = [*elbo_loss(**arguments, impl="cpu"), *gradients(arguments, with_impl("cpu"), 1.0).values()]
    with torch.device("meta"):
        found = [*elbo_loss(**arguments, impl="cpu"), *gradients(arguments, with_impl("cpu"), 1.0).values()]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@needs_compiled
def test_negative_views_count_as_what_they_show() -> None:
    """As imaginary parts of conjugates are: their memory holds the opposite."""
    output = torch.randn(1, dtype=torch.complex64).conj().imag.view(1, 1)
    assert output.is_neg()
    half, none = torch.full((1, 1), 0.3), torch.zeros(1, 2)
    found, expected = (elbo_loss(output, half, none, none, impl=impl).loss for impl in ("cpu", "reference"))
    torch.testing.assert_close(found, expected)


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

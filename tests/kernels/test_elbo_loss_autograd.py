"""`elbo_loss` under autograd's other uses and under tracers: graphs that are kept, forward mode, compile, export."""

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastvae_kernels import UnavailableError, elbo_loss
from tests.kernels.elbo_losses import DIFFERENTIABLE, IMPLS, make
from tests.kernels.support import DEVICE, needs_compiled


@needs_compiled
def test_forward_mode_and_transforms_take_the_reference() -> None:
    """Which is made of operations that they know; the compiled one, by name, says that it cannot."""
    a = make("bernoulli")
    output, tangent = a.pop("output"), torch.ones(6, 5)

    def loss(output: Tensor, impl: str) -> Tensor:
        return elbo_loss(output, **a, impl=impl).loss

    def forward_mode(impl: str) -> Tensor:
        with forward_ad.dual_level():
            derivative: Tensor = forward_ad.unpack_dual(loss(forward_ad.make_dual(output, tangent), impl)).tangent
            return derivative

    (gradient,) = torch.autograd.grad(loss(output.requires_grad_(), "cpu"), output)
    output = output.detach()
    torch.testing.assert_close(forward_mode("auto"), gradient.sum())
    torch.testing.assert_close(torch.func.jvp(lambda x: loss(x, "auto"), (output,), (tangent,))[1], gradient.sum())
    pair = torch.stack([output, 2 * output])
    found = torch.vmap(lambda x: loss(x, "auto"))(pair)
    torch.testing.assert_close(found, torch.stack([loss(x, "reference") for x in pair]))
    for call in (forward_mode, torch.vmap(lambda x: loss(x, "cpu"))):
        with pytest.raises(UnavailableError, match=r"cannot run under a transform of torch\.func or in forward mode"):
            call("cpu" if call is forward_mode else pair)


@needs_compiled
def test_a_gradient_that_is_written_into_leaves_a_kept_graph_alone() -> None:
    """`backward` adds to what it handed out before, and callers scale it."""
    leaf, none = torch.randn(3, 4, requires_grad=True), torch.zeros(3, 2)
    loss = elbo_loss(leaf.view(3, 4), torch.rand(3, 4), none, none, impl="cpu").loss
    (once,) = torch.autograd.grad(loss, leaf, retain_graph=True)
    expected = once.clone()
    once.mul_(7)
    for count in (1, 2, 3):
        loss.backward(retain_graph=count < 3)
        torch.testing.assert_close(leaf.grad, count * expected)


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

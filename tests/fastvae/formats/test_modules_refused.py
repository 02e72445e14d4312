"""``fastvae.from_modules`` refuses what it cannot do, naming it; and never hands out a wrong translation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastvae
from fastvae.conversion import convert
from fastvae.errors import FastVAEError, InputError, TranslationError, UnsupportedError, WeightMismatchError
from fastvae.formats.modules import _shape_rules
from fastvae.layers import Activation
from fastvae.spec import Bernoulli, GaussianHead, PerDimensionGaussian, PredictedGaussian
from tests.fastvae.formats.made_modules import (
    FEATURES,
    LATENT,
    Containers,
    Function,
    Heads,
    decoder_module,
    rows_of,
    shaken,
)


def take(encoder: Any = None, decoder: Any = None, **arguments: Any) -> fastvae.VAE:
    """``from_modules`` with small modules and a fitting example where none are given."""
    arguments = {"likelihood": "gaussian", "example_input": rows_of((FEATURES,))} | arguments
    return fastvae.from_modules(encoder or Heads(), decoder or decoder_module(), **arguments)


def with_body(function: Callable[[Tensor], Tensor]) -> nn.Module:
    return Heads(nn.Sequential(OrderedDict(first=nn.Linear(FEATURES, FEATURES), second=Function(function))))


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (lambda x: F.layer_norm(x, (FEATURES,)), "layer_norm"),
        (lambda x: F.softmax(x, 1), "softmax"),
        (lambda x: F.hardtanh(x), "hardtanh"),
        (lambda x: F.relu6(x), "(relu6|hardtanh)"),
        (lambda x: torch.cat([x, x], 1)[:, :FEATURES], "cat"),
        (lambda x: x * torch.tanh(x), "mul"),
        (lambda x: x / (1 + torch.exp(x)), "div"),
        (lambda x: x**2, "pow"),
        (lambda x: torch.sin(x), "sin"),
        (lambda x: x.flip(1), "flip"),
        (lambda x: x[:, [5, 4, 3, 2, 1, 0]], "index"),
        (lambda x: x - x.mean(0), "mean"),
        (lambda x: x.view(-1, 3, 2).transpose(1, 2).reshape(-1, 6), "transpose"),
        (lambda x: x.reshape(-1).view(-1, 6), "(reshape|view)"),
        (lambda x: F.softplus(x, beta=2), "softplus"),
        (lambda x: F.threshold(x, 0.5, 0), "threshold"),
        (lambda x: F.dropout(x, 0.5, training=True), "dropout"),
        (lambda x: F.batch_norm(x, None, None, training=True), "batch_norm"),
        (lambda x: x + torch.randn(FEATURES), "randn"),
        (lambda x: x + torch.rand_like(x), "rand_like"),
        (lambda x: x + torch.arange(5.0)[:, None], "add"),
        (lambda x: x.clamp(-1, 1), "clamp"),
        (lambda x: x.exp(), "exp"),
        (lambda x: x[:, :4].repeat(1, 2)[:, :6], "repeat"),
        (lambda x: F.linear(x.view(-1, 3, 2), torch.ones(2, 2)).flatten(1), "linear"),
        (lambda x: F.linear(x, x)[:, :1].expand(-1, FEATURES), "linear"),
        (lambda x: x.long().float(), "to"),
        (lambda x: F.conv1d(x.unsqueeze(1), torch.ones(1, 1, 1)).squeeze(1), "conv1d"),
        (lambda x: F.conv2d(x.view(-1, 1, 2, 3), torch.ones(1, 1, 2, 2), padding="same").flatten(1), "conv2d"),
    ],
)
def test_operators_are_named_with_their_module(function: Callable[[Tensor], Tensor], operator: str) -> None:
    message = rf"^encoder: operator aten\.{operator}[.\w]* in module 'encoder\.body\.second' is not supported"
    with pytest.raises(UnsupportedError, match=message):
        take(with_body(function))


def test_the_message_says_what_is_supported() -> None:
    pooled = nn.Sequential(nn.Conv2d(1, 2, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 6))
    with pytest.raises(UnsupportedError) as caught:
        take(nn.Sequential(OrderedDict(features=pooled)), example_input=rows_of((1, 8, 8)))
    assert "operator aten.max_pool2d.default in module 'encoder.features.2' is not supported" in str(caught.value)
    assert "conv_transpose2d" in str(caught.value)


def test_recurrent_networks() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(FEATURES, FEATURES, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.lstm(x[:, None])[0]
            return out[:, 0]

    with pytest.raises(UnsupportedError, match=r"operator aten\.(unsqueeze|lstm|select)\S* in module 'encoder\.body"):
        take(Heads(Recurrent()))


@pytest.mark.parametrize(
    "function",
    [lambda x: x if x.sum() > 0 else -x, lambda x: x[x > 0], lambda x: x * float(x.max())],
    ids=["if", "mask", "item"],
)
def test_control_flow_on_numbers(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(UnsupportedError, match=r"^encoder: (torch\.export cannot trace it on|operator)"):
        take(with_body(function))


def test_control_flow_on_shapes_is_fine() -> None:
    take(with_body(lambda x: torch.tanh(x) if x.shape[1] == FEATURES else x))


def test_a_module_that_changes_itself() -> None:
    class Counting(nn.Module):
        calls: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x + 1

    with pytest.raises(UnsupportedError, match=r"changes its buffer 'body\.calls'"):
        take(Heads(Counting()))


def test_batch_norm_without_running_statistics() -> None:
    with pytest.raises(UnsupportedError, match="statistics of the batch"):
        take(Heads(nn.BatchNorm1d(FEATURES, track_running_stats=False)))


def test_modules_that_cannot_be_copied() -> None:
    linear = nn.Linear(FEATURES, FEATURES)
    linear.kept = linear.weight * 2  # type: ignore[assignment]
    with pytest.raises(UnsupportedError, match=r"^encoder: cannot be copied"):
        take(Heads(linear))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": lambda x: x}, "encoder: expected a torch.nn.Module, got function"),
        ({"decoder": "decoder.pt"}, "decoder: expected a torch.nn.Module, got str"),
        ({"example_input": [[1.0]]}, "example_input: expected a tensor or array of floats, got list"),
        ({"example_input": torch.ones(2, 6, dtype=torch.long)}, "array of floats, got torch.int64"),
        ({"example_input": np.ones((2, 6), dtype=int)}, "array of floats, got int64"),
        ({"example_input": np.ones((2, 6), dtype=object)}, "array of floats, got object"),
        ({"example_input": torch.ones(2, 6).to_sparse()}, "expected a dense tensor that holds numbers"),
        ({"example_input": torch.ones(2, 6, device="meta")}, "expected a dense tensor that holds numbers"),
        ({"likelihood": np.zeros(6)}, "likelihood: expected 'bernoulli', 'gaussian'"),
        ({"likelihood": 10**400}, "likelihood: a variance must be positive and finite"),
        ({"example_input": torch.ones(6)}, r"at least one row, rows first, got shape \(6,\)"),
        ({"example_input": torch.ones(0, 6)}, r"at least one row, rows first, got shape \(0, 6\)"),
        ({"example_input": torch.ones(2, 3, 2)}, r"rows of a flat shape or of images.*got shape \(2, 3, 2\)"),
        ({"example_input": torch.full((2, 6), torch.nan)}, "example_input: expected finite numbers"),
        ({"example_latent": torch.ones(2, 4)}, r"example_latent: expected rows of shape \(3,\).*got \(4,\)"),
        ({"example_latent": 3}, "example_latent: expected a tensor"),
        ({"parametrization": "precision"}, "parametrization: expected one of logvar, logstd"),
        ({"parametrization": ["logvar"]}, "parametrization: expected one of"),
        ({"name": 3}, "name: expected text"),
        ({"likelihood": "gamma"}, "likelihood: expected 'bernoulli', 'gaussian'.*'categorical'.*got 'gamma'"),
        ({"likelihood": True}, "likelihood: expected"),
        ({"likelihood": None}, "likelihood: expected"),
        ({"likelihood": 0.0}, "variance must be positive and finite, got 0.0"),
        ({"likelihood": float("inf")}, "variance must be positive and finite"),
        ({"likelihood": torch.ones(5)}, r"log-variances must be finite floats that broadcast to \(6,\)"),
        ({"likelihood": torch.ones(6, dtype=torch.long)}, "log-variances must be finite floats"),
        ({"likelihood": torch.full((6,), torch.inf)}, "log-variances must be finite floats"),
        ({"likelihood": PerDimensionGaussian()}, "pass its tensor of log-variances"),
        ({"likelihood": PredictedGaussian(GaussianHead("separate"))}, "pass 'gaussian', with a decoder that"),
    ],
)
def test_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        take(**arguments)


@pytest.mark.parametrize(
    ("pack", "message"),
    [
        (lambda mean, logvar: (mean, logvar, mean), r"expected \(mean, logvar\).*found a tuple of 3"),
        (lambda mean, logvar: {"mean": mean, "spread": logvar}, "found a dict with 'mean', 'spread'"),
        (lambda mean, logvar: mean, r"one tensor must hold mean and scale, found rows of shape \(3,\), not even"),
        (lambda mean, logvar: (mean,), "not even"),
        (lambda mean, logvar: (mean, torch.zeros(3)), "expected tensors computed from its input, found a constant"),
        (lambda mean, logvar: (mean, None), "not even"),
        (lambda mean, logvar: (mean, logvar[:, :1]), r"mean has rows of shape \(3,\), logvar of \(1,\)"),
    ],
)
def test_outputs_of_an_encoder(pack: Callable[[Tensor, Tensor], Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^encoder: .*{message}"):
        take(Containers(pack))


@pytest.mark.parametrize(
    "function",
    [lambda h: (h[:, 3:], h[:, :3]), lambda h: (h[:, :3], h[:, 1:4]), lambda h: (h[:, 1::2], h[:, 0::2])],
    ids=["swapped", "overlapping", "interleaved and swapped"],
)
def test_halves_in_another_order(function: Callable[[Tensor], Any]) -> None:
    with pytest.raises(UnsupportedError, match="mean and scale must be the first and second half, or alternate"):
        take(nn.Sequential(nn.Linear(FEATURES, 6), Function(function)))


def test_a_part_alone() -> None:
    with pytest.raises(UnsupportedError, match="a part of a tensor; only mean and scale may be"):
        take(nn.Sequential(nn.Linear(FEATURES, 6), Function(lambda h: (h[:, :3], 2 * torch.tanh(h[:, 3:])))))


def test_standard_deviations_of_another_form() -> None:
    with pytest.raises(UnsupportedError, match="must end in exp, in sqrt, in softplus, or in softplus plus a constant"):
        take(Containers(lambda mean, raw: (mean, raw.sigmoid())), parametrization="std")


def test_variances_must_be_positive() -> None:
    with pytest.raises(InputError, match="its second output, a variance by parametrization, is not positive"):
        take(Containers(lambda mean, raw: (mean, raw - 100)), parametrization="variance")


@pytest.mark.parametrize(
    ("decoder", "likelihood", "message"),
    [
        (nn.Linear(LATENT, 5), "gaussian", r"input shape, \(6,\), found \(5,\)"),
        (Heads(nn.Identity(), LATENT, FEATURES), "bernoulli", "expected one tensor, .*found a tuple of 2"),
        (Heads(nn.Identity(), LATENT, FEATURES), 0.1, "it must be 'gaussian', not gaussian_fixed"),
        (nn.Sequential(nn.Linear(LATENT, 6), nn.Tanh()), "bernoulli", "must end in a sigmoid.*ends in aten.tanh"),
        (
            nn.Sequential(nn.Linear(LATENT, 6), nn.Sigmoid(), Function(lambda x: 2 * x - 1)),
            Bernoulli(),
            "must end in a sigmoid",
        ),
    ],
)
def test_decoders_that_do_not_fit(decoder: nn.Module, likelihood: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        take(decoder=decoder, likelihood=likelihood)


def test_a_decoder_of_other_latents() -> None:
    with pytest.raises(
        UnsupportedError, match=r"^decoder: torch\.export cannot trace it on a tensor of shape \(5, 3\)"
    ):
        take(decoder=nn.Linear(4, FEATURES))


def test_weights_that_are_not_finite() -> None:
    encoder = Heads()
    with torch.no_grad():
        encoder.mean.weight[0, 0] = torch.nan
    with pytest.raises(WeightMismatchError, match=r"tensor 'encoder\.mean\.weight' holds NaN or Inf"):
        take(encoder)


def test_modules_without_finite_results() -> None:
    encoder = shaken(Heads(Function(lambda x: x * 1e300 * 1e300)))
    with pytest.raises(FastVAEError, match="NaN or Inf"):
        take(encoder)


@pytest.mark.parametrize("slope", [0.01 + 1e-10, 0.02])
def test_a_wrong_translation_is_never_handed_out(slope: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where it is wrong by less than float32 could tell."""

    def wrong(call: Any) -> Any:
        return call.layer(Activation("leaky_relu", slope), call.value("self"))

    encoder = shaken(Heads(nn.Sequential(nn.Linear(FEATURES, 20), nn.LeakyReLU()), 20))
    take(encoder)
    monkeypatch.setitem(_shape_rules.RULES, "leaky_relu", wrong)
    with pytest.raises(TranslationError, match="encoder: the translated model's mean differs from the module's by"):
        take(encoder)
    assert issubclass(TranslationError, AssertionError)


@pytest.mark.parametrize("operator", ["gelu", "silu", "softplus", "sigmoid"])
def test_wrong_activations_in_a_decoder(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = shaken(nn.Sequential(nn.Linear(LATENT, 8), Function(getattr(F, operator)), nn.Linear(8, FEATURES)))
    take(decoder=decoder)
    other = Activation("gelu_tanh" if operator == "gelu" else "tanh")
    monkeypatch.setitem(_shape_rules.RULES, operator, lambda call: call.layer(other, call.value("self")))
    with pytest.raises(TranslationError, match=r"^decoder: the translated model's output differs"):
        take(decoder=decoder)


def test_softplus_beyond_its_threshold_is_no_difference() -> None:
    """torch's drops 2e-9 there; the budget allows for that."""
    take(shaken(Heads(nn.Sequential(nn.Linear(FEATURES, 20), Function(lambda x: F.softplus(20 + x))), 20)))
    encoder = Containers(lambda mean, raw: (mean, F.softplus(20 + raw)))
    take(encoder, parametrization="std")


def test_ill_conditioned_modules_are_no_difference() -> None:
    """A sum that cancels amplifies rounding a million times, in both computations alike."""
    take(shaken(Heads(Function(lambda x: (torch.tanh(x + 1e-6) - torch.tanh(x)) * 1e6))))


def test_convert_gives_the_model_itself() -> None:
    model = convert(Heads(), decoder_module(), likelihood="gaussian", example_input=rows_of((FEATURES,)), name="m")
    assert model.weights.keys() == model.spec.tensors().keys()
    assert model.spec.name == "m"

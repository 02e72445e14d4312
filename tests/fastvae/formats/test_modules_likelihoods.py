"""``fastvae.from_modules``: decoders of every likelihood score as torch.distributions does with what they return."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributions, nn

import fastvae
from fastvae.errors import InputError, TranslationError, UnsupportedError
from fastvae.formats.modules import _shape_rules
from fastvae.heads import (
    Bernoulli,
    ByCondition,
    Categorical,
    ContinuousBernoulli,
    Fixed,
    FixedGaussian,
    Laplace,
    Mixed,
    Multinomial,
    NegativeBinomial,
    PerDimension,
    PerDimensionGaussian,
    Poisson,
    Predicted,
    Segment,
    StudentT,
)
from fastvae.layers import Activation, Linear
from tests.fastvae.formats.made_modules import FEATURES, LATENT, Function, Heads, shaken

ROWS = 7
Pack = Callable[..., Any]


class Decoder(nn.Module):
    """Two linear layers over a hidden one, and a tensor of its own, as ``pack`` returns them."""

    def __init__(self, pack: Pack) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(LATENT, 8), nn.Tanh())
        self.first = nn.Linear(8, FEATURES)
        self.second = nn.Linear(8, FEATURES)
        self.third = nn.Linear(8, FEATURES)
        self.own = nn.Parameter(torch.linspace(0.1, 0.8, FEATURES))
        self.pack = pack

    def forward(self, z: Tensor) -> Any:
        h = self.body(z)
        return self.pack(self.first(h), self.second(h), self.third(h), self.own)


class Counted(NamedTuple):
    rate: Tensor
    theta: Tensor


def taken(pack: Pack | nn.Module, likelihood: Any, x: Tensor, **arguments: Any) -> tuple[fastvae.VAE, Any]:
    """The model of a decoder, in float64, and what the decoder itself returns at the rows' posterior means."""
    decoder = pack if isinstance(pack, nn.Module) else Decoder(pack)
    encoder, decoder = shaken(Heads()).double(), shaken(decoder).double()
    vae = fastvae.from_modules(
        encoder, decoder, likelihood=likelihood, example_input=x, precision="float64", impl="reference", **arguments
    )
    with torch.no_grad():
        return vae, decoder(vae.embed(x))


def data(kind: str) -> Tensor:
    generator = np.random.default_rng(3)
    values = generator.normal(size=(ROWS, FEATURES))
    if kind in ("poisson", "negative_binomial", "multinomial"):
        values = generator.integers(0, 9, (ROWS, FEATURES)).astype(float)
    elif kind in ("continuous_bernoulli", "bernoulli"):
        values = generator.random((ROWS, FEATURES))
    elif kind == "categorical":
        values = np.eye(FEATURES)[generator.integers(0, FEATURES, ROWS)]
    return torch.from_numpy(values)


def negative_binomial(mean: Tensor, theta: Tensor) -> distributions.Distribution:
    return distributions.NegativeBinomial(theta, logits=mean.log() - theta.log())


def own() -> Tensor:
    """The decoders' own parameter, as it is when a model is made of them."""
    return shaken(Decoder(lambda: None)).double().own.detach()


def of_rows(make: Callable[..., distributions.Distribution]) -> Callable[[Any, Tensor], Tensor]:
    """log p(x|z) of rows (n, features) under independent entries."""
    return lambda output, x: make(output).log_prob(x).sum(1)


# For each: likelihood, what the decoder returns, and log p of it by torch.distributions.
CASES: dict[str, tuple[Any, Pack, Callable[[Any, Tensor], Tensor]]] = {
    "laplace": ("laplace", lambda a, b, c, own: a, of_rows(lambda a: distributions.Laplace(a, 1.0))),
    "laplace fixed": (Laplace(Fixed(0.5)), lambda a, b, c, own: a, of_rows(lambda a: distributions.Laplace(a, 0.5))),
    "laplace exp": ("laplace", lambda a, b, c, own: (a, b.exp()), of_rows(lambda o: distributions.Laplace(*o))),
    "laplace softplus": (
        "laplace",
        lambda a, b, c, own: {"loc": torch.tanh(a), "scale": F.softplus(b) + 0.1},
        of_rows(lambda o: distributions.Laplace(o["loc"], o["scale"])),
    ),
    "laplace log": (
        "laplace",
        lambda a, b, c, own: {"mu": a, "log_scale": b},
        of_rows(lambda o: distributions.Laplace(o["mu"], o["log_scale"].exp())),
    ),
    "laplace own": (
        "laplace",
        lambda a, b, c, own: (a, own.exp()),
        of_rows(lambda o: distributions.Laplace(*o)),
    ),
    "laplace raw": (
        Laplace(Predicted(form="softplus", eps=0.2)),
        lambda a, b, c, own: (a, b),
        of_rows(lambda o: distributions.Laplace(o[0], F.softplus(o[1]) + 0.2)),
    ),
    "laplace plus eps": (
        Laplace(Predicted(form="identity", eps=0.2)),
        lambda a, b, c, own: (a, b.sigmoid()),
        of_rows(lambda o: distributions.Laplace(o[0], o[1] + 0.2)),
    ),
    "student_t": (
        "student_t",
        lambda a, b, c, own: {"loc": a, "scale": b.exp(), "df": 2 + own},
        of_rows(lambda o: distributions.StudentT(o["df"], o["loc"], o["scale"])),
    ),
    "student_t fixed": (
        StudentT(Fixed(3.0)),
        lambda a, b, c, own: a,
        of_rows(lambda a: distributions.StudentT(3.0, a)),
    ),
    "student_t named": (
        StudentT(PerDimension("own", "softplus", 1.0), Predicted()),
        lambda a, b, c, own: (a, b),
        of_rows(lambda o: distributions.StudentT(1 + F.softplus(own()), o[0], o[1].exp())),
    ),
    "continuous_bernoulli": (
        "continuous_bernoulli",
        lambda a, b, c, own: torch.sigmoid(2 + a),
        of_rows(lambda p: distributions.ContinuousBernoulli(p)),
    ),
    "continuous_bernoulli logits": (
        ContinuousBernoulli(),
        lambda a, b, c, own: {"logits": 2 + a},
        of_rows(lambda o: distributions.ContinuousBernoulli(logits=o["logits"])),
    ),
    "bernoulli probs": (
        Bernoulli(),
        lambda a, b, c, own: {"probs": a.sigmoid()},
        lambda o, x: -F.binary_cross_entropy(o["probs"], x, reduction="none").sum(1),
    ),
    "poisson exp": ("poisson", lambda a, b, c, own: a.exp(), of_rows(distributions.Poisson)),
    "poisson log": (Poisson(), lambda a, b, c, own: a / 3, of_rows(lambda a: distributions.Poisson(a.exp()))),
    "poisson softplus": ("poisson", lambda a, b, c, own: F.softplus(a), of_rows(distributions.Poisson)),
    "poisson raw": (
        Poisson("softplus"),
        lambda a, b, c, own: a,
        of_rows(lambda a: distributions.Poisson(F.softplus(a))),
    ),
    "poisson shares": ("poisson", lambda a, b, c, own: 40 * F.softmax(a, -1), of_rows(distributions.Poisson)),
    "poisson library": (
        Poisson("softmax", "observed", 40.0),
        lambda a, b, c, own: {"rate": torch.softmax(a, 1)},
        lambda o, x: distributions.Poisson(o["rate"] * x.sum(1, keepdim=True)).log_prob(x).sum(1),
    ),
    "nb": (
        "negative_binomial",
        lambda a, b, c, own: (a.exp(), b.exp()),
        of_rows(lambda o: negative_binomial(*o)),
    ),
    "nb softplus": (
        "negative_binomial",
        lambda a, b, c, own: Counted(F.softplus(a), F.softplus(b) + 1e-3),
        of_rows(lambda o: negative_binomial(*o)),
    ),
    "nb own": (
        "negative_binomial",
        lambda a, b, c, own: {"log_rate": a, "log_theta": own},
        of_rows(lambda o: negative_binomial(o["log_rate"].exp(), o["log_theta"].exp())),
    ),
    "nb parameter": (
        NegativeBinomial(PerDimension("decoder.own")),
        lambda a, b, c, own: a.exp(),
        of_rows(lambda a: negative_binomial(a, own().exp())),
    ),
    "multinomial": (
        "multinomial",
        lambda a, b, c, own: F.log_softmax(a, 1),
        lambda o, x: torch.stack(
            [distributions.Multinomial(int(row.sum()), logits=p).log_prob(row) for p, row in zip(o, x, strict=True)]
        ),
    ),
    "categorical": (
        Categorical(),
        lambda a, b, c, own: {"probs": nn.Softmax(dim=1)(a)},
        lambda o, x: distributions.OneHotCategorical(o["probs"]).log_prob(x),
    ),
    "categorical logits": (
        "categorical",
        lambda a, b, c, own: [a],
        lambda o, x: distributions.OneHotCategorical(logits=o[0]).log_prob(x),
    ),
    "gaussian own": (
        "gaussian",
        lambda a, b, c, own: (a, own),
        of_rows(lambda o: distributions.Normal(o[0], (o[1] / 2).exp())),
    ),
    "gaussian named": (
        PerDimensionGaussian("own", "variance", 0.5),
        lambda a, b, c, own: a,
        of_rows(lambda a: distributions.Normal(a, (0.5 + own()).sqrt())),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_torch(name: str, tmp_path: Path) -> None:
    likelihood, pack, log_density = CASES[name]
    kind = likelihood if isinstance(likelihood, str) else likelihood.kind
    x = data(kind)
    vae, output = taken(pack, likelihood, x)
    assert vae.spec.likelihood.kind.startswith(kind.partition("_per")[0])
    expected = -log_density(output, x)
    torch.testing.assert_close(vae.score(x), expected, rtol=1e-9, atol=1e-9)
    vae.save(tmp_path / "model.safetensors")
    again = fastvae.load(tmp_path / "model.safetensors", impl="reference")
    torch.testing.assert_close(again.score(x), expected, rtol=1e-9, atol=1e-9)


def test_extra_zeros() -> None:
    x = data("negative_binomial")
    for pack in (
        lambda a, b, c, own: (a.exp(), b.exp(), c),
        lambda a, b, c, own: (a.exp(), b.exp(), c.sigmoid()),
        lambda a, b, c, own: {"mean": a.exp(), "theta": b.exp(), "zero_logits": c},
    ):
        vae, output = taken(pack, "negative_binomial", x)
        mean, theta, zero = output.values() if isinstance(output, dict) else output
        share = torch.where(((zero >= 0) & (zero <= 1)).all(), zero, zero.sigmoid())
        density = (1 - share) * negative_binomial(mean, theta).log_prob(x).exp() + share * (x == 0)
        torch.testing.assert_close(vae.score(x), -density.log().sum(1), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(vae.decode(vae.embed(x)), (1 - share) * mean, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("likelihood", "function"),
    [
        ("laplace", lambda h: h.chunk(2, 1)),
        ("laplace", lambda h: (h[:, :FEATURES], h[:, FEATURES:].exp())),
        ("negative_binomial", lambda h: tuple(F.softplus(part) for part in h.chunk(2, 1))),
    ],
    ids=["identity", "exp", "softplus"],
)
def test_parts_of_one_tensor(likelihood: str, function: Callable[[Tensor], Any]) -> None:
    x = data(likelihood)
    body = nn.Sequential(nn.Linear(LATENT, 2 * FEATURES), nn.Softplus())
    vae, output = taken(nn.Sequential(*body, Function(function)), likelihood, x)
    assert vae.spec.decoder[0] == Linear("decoder.0", LATENT, 2 * FEATURES)
    law = distributions.Laplace if likelihood == "laplace" else negative_binomial
    torch.testing.assert_close(vae.score(x), -law(*output).log_prob(x).sum(1), rtol=1e-9, atol=1e-9)


def test_images() -> None:
    x = data("laplace")[:4, :4].reshape(4, 1, 2, 2)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(4, 2 * LATENT)).double()
    decoder = nn.Sequential(
        nn.Linear(LATENT, 8), nn.Unflatten(1, (2, 2, 2)), Function(lambda h: (h[:, :1], h[:, 1:].exp()))
    ).double()
    vae = fastvae.from_modules(encoder, decoder, likelihood="laplace", example_input=x, impl="reference")
    with torch.no_grad():
        expected = -distributions.Laplace(*decoder(vae.embed(x))).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(vae.score(x), expected, rtol=1e-9, atol=1e-9)


def test_columns_of_several_kinds() -> None:
    segments = (
        Segment(1, FixedGaussian(0.3)),
        Segment(3, Categorical()),
        Segment(1, Laplace(PerDimension("spread"))),
        Segment(1, Poisson(), (Activation("tanh"),)),
    )
    x = torch.cat([data("laplace")[:, :1], data("categorical")[:, :3], data("poisson")[:, :2]], 1)
    x[:, 1:4] = torch.eye(3)[torch.arange(ROWS) % 3]
    decoder = nn.Sequential(nn.Linear(LATENT, FEATURES))
    decoder.register_parameter("spread", nn.Parameter(torch.tensor(0.3)))
    vae, output = taken(decoder, Mixed(segments), x)
    expected = -distributions.Normal(output[:, 0], 0.3**0.5).log_prob(x[:, 0])
    expected -= distributions.OneHotCategorical(logits=output[:, 1:4]).log_prob(x[:, 1:4])
    expected -= distributions.Laplace(output[:, 4], decoder.spread.detach().exp()).log_prob(x[:, 4])
    expected -= distributions.Poisson(output[:, 5].tanh().exp()).log_prob(x[:, 5])
    torch.testing.assert_close(vae.score(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("likelihood", "pack", "message"),
    [
        ("negative_binomial", lambda a, b, c, own: a.exp(), "it must return dispersion as well, or likelihood say"),
        ("student_t", lambda a, b, c, own: (a, b.exp()), r"it must return df as well.*StudentT\(df=Fixed"),
        (NegativeBinomial(Predicted()), lambda a, b, c, own: a, "dispersion is predicted, but it is not among"),
        (Laplace(), lambda a, b, c, own: {"loc": a, "scale": b.exp()}, r"returns scale, which Laplace has from else"),
        (Laplace(), lambda a, b, c, own: (a, b.exp()), "expected one tensor, or a mapping with .*found a tuple of 2"),
        ("laplace", lambda a, b, c, own: (a, b, c), r"expected \(location, scale\), or a mapping.*found a tuple of 3"),
        ("laplace", lambda a, b, c, own: {"x": a}, "mapping with 'location' or 'loc'.*; 'scale' or.*a dict with 'x'"),
        ("laplace", lambda a, b, c, own: {"loc": a, "mean": b}, "returns both 'loc' and 'mean', which are one"),
        ("laplace", lambda a, b, c, own: (a, b - 100), "its scale for the example is not positive"),
        ("laplace", lambda a, b, c, own: (a, -own), "scale must be positive, found -"),
        ("laplace", lambda a, b, c, own: (a, b[:, :3].exp()), r"expected scale in rows of .*\(6,\), found \(3,\)"),
        (Laplace(Predicted()), lambda a, b, c, own: (a, b.exp()), "it ends in exp, as the parameter itself does"),
        (
            Laplace(PerDimension("missing")),
            lambda a, b, c, own: a,
            "neither module has a parameter or buffer 'missing'",
        ),
        (Laplace(PerDimension("first.weight")), lambda a, b, c, own: a, "must be finite floats that broadcast to"),
        (Laplace(location=(Activation("tanh"),)), lambda a, b, c, own: a, "must have no stacks of layers"),
        ("poisson", lambda a, b, c, own: F.relu(a), "must end in exp, softplus or softmax.*end in aten.relu"),
        ("poisson", lambda a, b, c, own: {"rate": a}, "must end in exp, softplus or softmax"),
        (Poisson(), lambda a, b, c, own: F.softplus(a), "ends in softplus, but the likelihood says link='exp'"),
        (
            Poisson("softmax", "fixed", 9.0),
            lambda a, b, c, own: 40 * F.softmax(a, 1),
            "makes shares of 40, but the likelihood says library_size=9",
        ),
        ("categorical", lambda a, b, c, own: {"probs": a}, "must end in a softmax"),
        ("continuous_bernoulli", lambda a, b, c, own: {"probs": a}, "probabilities must end in a sigmoid"),
        ("continuous_bernoulli", lambda a, b, c, own: a.tanh(), "must end in a sigmoid.*ends in aten.tanh"),
    ],
)
def test_decoders_that_do_not_fit(likelihood: Any, pack: Pack, message: str) -> None:
    kind = likelihood if isinstance(likelihood, str) else likelihood.kind
    with pytest.raises(InputError, match=message):
        taken(pack, likelihood, data(kind))


@pytest.mark.parametrize(
    ("likelihood", "pack", "message"),
    [
        ("student_t", lambda a, b, c, own: (a, b.exp(), c.exp()), "degrees of freedom that differ from row to row"),
        ("negative_binomial", lambda a, b, c, own: (a, own, own), "zero_inflation that is the same for every row"),
        (NegativeBinomial(ByCondition("own")), lambda a, b, c, own: a, "dispersion is by condition, but the model has"),
        ("laplace", lambda a, b, c, own: (a, b.exp().clamp(0.1, 2)), "it makes limited values"),
        ("laplace", lambda a, b, c, own: (a, a), "every parameter must be computed on its own"),
        ("categorical", lambda a, b, c, own: F.softmax(a.view(-1, 2, 3), 2).flatten(1), "only a flat row can be one"),
    ],
)
def test_decoders_that_no_spec_can_say(likelihood: Any, pack: Pack, message: str) -> None:
    kind = likelihood if isinstance(likelihood, str) else likelihood.kind
    with pytest.raises(UnsupportedError, match=message):
        taken(pack, likelihood, data(kind))


def test_parts_in_another_order() -> None:
    swapped = Function(lambda h: (h[:, FEATURES:], h[:, :FEATURES].exp()))
    with pytest.raises(UnsupportedError, match="parameters must be equal parts, one after another, in order"):
        taken(nn.Sequential(nn.Linear(LATENT, 2 * FEATURES), swapped), "laplace", data("laplace"))


@pytest.mark.parametrize("name", ["nb softplus", "laplace exp", "poisson shares", "categorical", "multinomial"])
def test_a_wrong_translation_is_never_handed_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    likelihood, pack, _ = CASES[name]
    wrong = _shape_rules.RULES["linear"]
    calls = []

    def shifted(call: Any) -> Any:
        calls.append(call)
        value: Any = wrong(call)
        off = len(calls) == 5  # of the encoder's three linear layers and the decoder's four
        return (
            call.scaled(value, torch.linspace(1, 1.001, FEATURES).double(), torch.zeros(1).double()) if off else value
        )

    monkeypatch.setitem(_shape_rules.RULES, "linear", shifted)
    with pytest.raises(TranslationError, match="decoder: the translated model's output differs"):
        taken(pack, likelihood, data(likelihood if isinstance(likelihood, str) else likelihood.kind))


def test_a_multinomial_of_a_fixed_total() -> None:
    vae, output = taken(lambda a, b, c, own: a, Multinomial(library_size=20.0), data("multinomial"))
    torch.testing.assert_close(vae.decode(vae.embed(data("multinomial"))), 20 * output.softmax(1))

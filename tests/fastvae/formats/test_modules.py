"""``fastvae.from_modules``: modules as people write them give the numbers that they give themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fastvae
from fastvae.layers import Activation, Affine, BatchNorm, Linear, Residual
from fastvae.spec import Bernoulli, FixedGaussian
from tests.fastvae.formats.made_modules import (
    ACTIVATIONS,
    FEATURES,
    LATENT,
    Block,
    Function,
    Heads,
    all_leaves,
    conv_decoder,
    conv_encoder,
    converted,
    decoder_module,
    rows_of,
    shaken,
)


def test_an_mlp_keeps_its_names() -> None:
    encoder = Heads(nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.5)), 8)
    vae = converted(encoder, nn.Sequential(nn.Linear(LATENT, 8), nn.ELU(), nn.Linear(8, FEATURES), nn.Sigmoid()))
    names = {name.rpartition(".")[0] for name in vae.spec.tensors()}
    assert names == {"encoder.body.0", "encoder.body.1", "encoder.mean", "encoder.logvar", "decoder.0", "decoder.2"}
    assert vae.spec.likelihood == FixedGaussian(1.0)
    assert vae.spec.decoder[-1] == Activation("sigmoid"), "a Gaussian's mean may well end in one"


def test_a_convolutional_vae() -> None:
    vae = converted(conv_encoder(), conv_decoder(), shape=(2, 8, 8), likelihood="bernoulli")
    assert vae.spec.decoder[-1].kind == "conv2d", "the sigmoid is taken off: the spec holds logits"
    assert vae.spec.likelihood == Bernoulli()


def test_logits_are_used_as_they_are() -> None:
    vae = converted(conv_encoder(), conv_decoder(nn.Identity()), shape=(2, 8, 8), likelihood=Bernoulli())
    assert vae.spec.decoder[-1].kind == "conv2d"


def test_a_sigmoid_before_a_view_is_taken_off() -> None:
    decoder = nn.Sequential(nn.Linear(LATENT, 8), nn.Sigmoid(), nn.Unflatten(1, (2, 2, 2)))
    vae = converted(
        Heads(nn.Sequential(nn.Flatten(), nn.Linear(8, 6))), decoder, shape=(2, 2, 2), likelihood="bernoulli"
    )
    assert [layer.kind for layer in vae.spec.decoder] == ["linear", "reshape"]


def test_residual_mlps() -> None:
    def inner() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 4), nn.SiLU(), nn.Linear(4, 6))

    nested = Block(nn.Sequential(nn.Linear(6, 6), Block(inner())), nn.Linear(6, 6, bias=False))
    vae = converted(Heads(nn.Sequential(Block(inner()), nested)))
    assert sum(isinstance(layer, Residual) for layer in vae.spec.encoder) == 2
    assert Residual in {
        type(layer) for block in vae.spec.encoder if isinstance(block, Residual) for layer in block.body
    }


def test_residual_convolutions() -> None:
    body = nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1))
    shortcut = nn.Sequential(nn.Conv2d(2, 4, 1, 2), nn.BatchNorm2d(4))
    block = Block(body, shortcut)
    vae = converted(conv_encoder(block), conv_decoder(), shape=(2, 8, 8), likelihood="bernoulli")
    assert isinstance(vae.spec.encoder[0], Residual)


def test_an_activation_in_place_changes_what_the_shortcut_adds() -> None:
    """``nn.ReLU(inplace=True)`` first in a block overwrites the block's input before it is added."""

    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 6))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.body(x)

    vae = converted(Heads(nn.Sequential(nn.Linear(6, 6), Overwriting())))
    assert [layer.kind for layer in vae.spec.encoder] == ["linear", "activation", "residual"]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_however_they_are_called(name: str) -> None:
    function, expected = ACTIVATIONS[name]
    body = nn.Sequential(nn.Linear(FEATURES, FEATURES), Function(lambda x: function(3 * (x - 1))))
    vae = converted(Heads(body))
    assert next(layer for layer in all_leaves(vae) if isinstance(layer, Activation)) == expected


@pytest.mark.parametrize(
    "module", [nn.PReLU(init=0.3), nn.SELU(), nn.CELU(1.0), nn.Softplus(), nn.ReLU(), nn.GELU("tanh"), nn.SiLU(True)]
)
def test_activation_modules(module: nn.Module) -> None:
    if isinstance(module, nn.CELU):
        with pytest.raises(fastvae.errors.UnsupportedError, match=r"aten\.celu\.default in module 'encoder\.body\.1'"):
            converted(Heads(nn.Sequential(nn.Linear(6, 6), module)))
    else:
        converted(Heads(nn.Sequential(nn.Linear(6, 6), module)))


class Standardising(nn.Module):
    """Buffers of the data's mean and scale in the encoder."""

    mean: Tensor
    std: Tensor

    def __init__(self, shape: tuple[int, ...], inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("mean", torch.rand(shape))
        self.register_buffer("std", torch.rand(shape) + 0.5)

    def forward(self, x: Tensor) -> Any:
        return self.inner((x - self.mean) / self.std)


def test_standardisation_is_one_layer() -> None:
    vae = converted(Standardising((FEATURES,), Heads()), nn.Sequential(decoder_module(), Function(lambda x: 2 * x - 1)))
    assert isinstance(vae.spec.encoder[0], Affine)
    assert [layer.kind for layer in vae.spec.encoder[1:]] == ["linear", "activation"]
    assert isinstance(vae.spec.decoder[-1], Affine)


@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (2, 1, 1), (1,), (2, 8, 8), (1, 2, 8, 8), (8, 8), (1, 8)])
def test_constants_of_every_shape_that_broadcasts(shape: tuple[int, ...]) -> None:
    vae = converted(Standardising(shape, conv_encoder()), conv_decoder(), shape=(2, 8, 8), likelihood="bernoulli")
    per_channel = shape in ((1, 2, 1, 1), (2, 1, 1), (1,))
    assert vae.spec.encoder[0] == Affine(vae.spec.encoder[0].name, (2,) if per_channel else (2, 8, 8))  # type: ignore[union-attr]


def test_arithmetic_with_numbers() -> None:
    converted(Heads(Function(lambda x: (1 - x) / 4 + (-x) * 2 - 3 + x.sub(x, alpha=0.5).add(1, alpha=2))))
    converted(Heads(Function(lambda x: x + x)))
    spelt = Function(lambda x: torch.true_divide(torch.multiply(torch.subtract(torch.negative(x), 1), 2), 3).divide(2))
    assert [layer.kind for layer in converted(Heads(spelt)).spec.encoder] == ["affine"]


def test_three_terms_and_sums_of_sums() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            a = self.a(x)
            b = self.b(a) + x
            return a + b - 0.5 * x

    vae = converted(Heads(Dense()))
    assert "encoder.body.b.weight" in vae.spec.tensors()


def test_a_web_of_shared_sums_is_refused() -> None:
    def fibonacci(x: Tensor) -> Tensor:
        a, b = x, torch.tanh(x)
        for _ in range(40):
            a, b = b, torch.tanh(a + b)
        return b

    with pytest.raises(fastvae.errors.UnsupportedError, match="nest too deeply"):
        converted(Heads(Function(fibonacci)))


def test_shapes_in_every_spelling() -> None:
    def back_and_forth(x: Tensor) -> Tensor:
        x = x.view(x.size(0), 2, 3).reshape(-1, 6).unflatten(1, (3, 2)).flatten(start_dim=1)
        x = x.unsqueeze(1).unsqueeze(-1).squeeze(-1).squeeze(1).contiguous()
        return x.view(len(x), -1).view_as(x).reshape_as(x)

    assert [layer.kind for layer in converted(Heads(Function(back_and_forth))).spec.encoder] == []


def test_weights_used_by_hand() -> None:
    class ByHand(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.W, self.b = nn.Parameter(torch.rand(6, 4)), nn.Parameter(torch.rand(4))
            self.V = nn.Parameter(torch.rand(6, 4))

        def forward(self, x: Tensor) -> Tensor:
            h = torch.tanh(x @ self.W + self.b)
            h = torch.addmm(torch.zeros(6), h, self.V.t())
            return F.linear(torch.mm(h, self.W), self.V, self.b.mean().expand(6))

    vae = converted(Heads(ByHand()))
    assert not any("@" in name or name.endswith(".W") for name in vae.spec.tensors())


def test_modules_may_be_used_twice() -> None:
    shared = nn.Linear(FEATURES, FEATURES)
    vae = converted(Heads(nn.Sequential(shared, nn.Tanh(), shared)))
    assert [layer.name for layer in vae.spec.encoder if isinstance(layer, Linear)] == ["encoder.body.0"] * 2


def test_the_same_operation_twice_is_one() -> None:
    """Each head computes the features anew: they are still one encoder."""
    features, mean, logvar = (nn.Linear(FEATURES, size) for size in (FEATURES, LATENT, LATENT))

    class Repeating(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.mean, self.logvar = features, mean, logvar

        def forward(self, x: Tensor) -> Any:
            return self.mean(torch.tanh(self.features(x))), self.logvar(torch.tanh(self.features(x)))

    assert [layer.kind for layer in converted(Repeating()).spec.encoder] == ["linear", "activation"]


def test_a_parameter_shared_by_two_modules() -> None:
    first, second = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES)
    second.weight = first.weight
    vae = converted(Heads(nn.Sequential(first, second)))
    assert {"encoder.body.0.weight", "encoder.body.1.weight"} <= vae.spec.tensors().keys()


def test_a_decoder_tied_to_the_encoder_by_a_transposed_weight() -> None:
    class Tied(nn.Module):
        def __init__(self, encoder: nn.Linear) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, z: Tensor) -> Tensor:
            return F.linear(z, self.encoder.weight.t())

    encoder = Heads(nn.Identity())
    vae = converted(encoder, Tied(encoder.mean))
    tied = vae._model.weights["decoder.linear.weight"]
    torch.testing.assert_close(tied, encoder.mean.weight.detach().t(), rtol=0, atol=0)


def test_normalised_weights_are_computed_once() -> None:
    body = nn.utils.parametrizations.weight_norm(nn.Linear(FEATURES, FEATURES))
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(FEATURES, FEATURES))
    vae = converted(Heads(nn.Sequential(body, nn.Tanh(), spectral)))
    assert [layer.kind for layer in vae.spec.encoder] == ["linear", "activation", "linear"]


def test_batch_norm_without_its_bias_or_with_borrowed_statistics() -> None:
    class Borrowed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(FEATURES)

        def forward(self, x: Tensor) -> Tensor:
            x = F.batch_norm(x, self.norm.running_mean, self.norm.running_var, self.norm.weight)  # type: ignore[arg-type]
            return F.batch_norm(x, self.norm.running_mean, self.norm.bias.exp(), eps=0.1)  # type: ignore[arg-type]

    vae = converted(Heads(Borrowed()))
    assert sum(isinstance(layer, BatchNorm) for layer in vae.spec.encoder) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_of_weights(dtype: torch.dtype) -> None:
    encoder, decoder = shaken(Heads()).to(dtype), shaken(decoder_module()).to(dtype)
    vae = fastvae.from_modules(encoder, decoder, likelihood="gaussian", example_input=rows_of((FEATURES,)))
    assert vae.spec.dtype == str(dtype).removeprefix("torch.")
    assert vae.precision == ("float64" if dtype == torch.float64 else "ieee")
    torch.testing.assert_close(vae._model.weights["encoder.mean.weight"], encoder.mean.weight.detach(), rtol=0, atol=0)


def test_modules_that_name_a_dtype() -> None:
    """In float64 they do not run, or change precision on the way: they are compared in their own."""

    class Naming(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(FEATURES, FEATURES)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.float() * torch.ones(FEATURES, dtype=torch.float32)).to(torch.float32)

    converted(Heads(Naming()))
    converted(Heads(nn.Sequential(nn.Linear(6, 6), Function(lambda x: x + torch.linspace(0, 1, 6, dtype=x.dtype)))))


def test_saving_and_loading(tmp_path: Path) -> None:
    vae = converted(conv_encoder(), conv_decoder(), shape=(2, 8, 8), likelihood="bernoulli")
    vae.save(tmp_path / "model.safetensors")
    loaded = fastvae.load(tmp_path / "model.safetensors", impl="reference")
    x = rows_of((2, 8, 8))
    assert loaded.spec == vae.spec
    torch.testing.assert_close(loaded.reconstruct(x), vae.reconstruct(x), rtol=0, atol=0)
    torch.testing.assert_close(loaded.score(x, "elbo"), vae.score(x, "elbo"), rtol=0, atol=0)


def test_settings_and_names_arrive() -> None:
    vae = fastvae.from_modules(
        Heads(),
        decoder_module(),
        likelihood="gaussian",
        example_input=rows_of((FEATURES,)).numpy(),
        example_latent=torch.ones(1, LATENT),
        name="mine",
        device="cpu",
        precision="float64",
        impl="reference",
        batch_size=3,
        batch_invariant=True,
    )
    assert (vae.spec.name, vae.precision, str(vae.device)) == ("mine", "float64", "cpu")
    one = vae.embed(rows_of((FEATURES,)))
    np.testing.assert_array_equal(one[:1], vae.embed(rows_of((FEATURES,))[:1]))


def test_examples_of_any_layout_and_variances_of_any_kind_are_taken() -> None:
    x = rows_of((FEATURES,)).numpy()
    encoder, decoder = Heads(), decoder_module()
    for same in (x, x[::-1], x.astype(">f4"), np.asfortranarray(x)):
        vae = fastvae.from_modules(encoder, decoder, likelihood=np.float32(0.5), example_input=same)
        assert vae.spec.likelihood == FixedGaussian(0.5)


def test_one_row_is_enough_and_weights_are_not_shared() -> None:
    encoder = Heads()
    vae = fastvae.from_modules(encoder, decoder_module(), likelihood=1.0, example_input=torch.rand(1, FEATURES))
    before = vae.embed(rows_of((FEATURES,)))
    with torch.no_grad():
        encoder.mean.weight.zero_()
    torch.testing.assert_close(vae.embed(rows_of((FEATURES,))), before, rtol=0, atol=0)


@st.composite
def bodies(draw: st.DrawFn, depth: int = 2) -> nn.Module:
    """Random modules that keep FEATURES features."""
    kinds = ["linear", "norm", "function", "scale", "dropout", *(["block"] * 2 if depth else [])]
    layers: list[nn.Module] = []
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=4)):
        match kind:
            case "linear":
                layers.append(nn.Linear(FEATURES, FEATURES, bias=draw(st.booleans())))
            case "norm":
                layers.append(nn.BatchNorm1d(FEATURES, affine=draw(st.booleans())))
            case "function":
                layers.append(Function(ACTIVATIONS[draw(st.sampled_from(sorted(ACTIVATIONS)))][0]))
            case "scale":
                factor = draw(st.sampled_from([-0.5, 0.25, 1.0]))
                layers.append(Function(lambda x, factor=factor: x * factor + 0.5))  # type: ignore[misc]
            case "dropout":
                layers.append(nn.Dropout(0.4))
            case _:
                layers.append(Block(draw(bodies(depth - 1)), draw(st.none() | bodies(depth - 1))))
    return nn.Sequential(*layers)


@given(body=bodies(), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=25)
def test_random_modules(body: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    converted(Heads(body))

"""ModelSpec: JSON round trip, shapes that do not fit, fields that are wrong."""

from __future__ import annotations

import dataclasses
import json
from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvae.errors import WeightFormatError
from fastvae.layers import Activation, Affine, BatchNorm, Conv2d, ConvTranspose2d, Flatten, Linear, Reshape
from fastvae.spec import Bernoulli, Condition, FixedGaussian, GaussianHead, ModelSpec, PerDimensionGaussian
from fastvae.spec_json import spec_from_json, spec_to_json
from fastvae_kernels import ACTIVATIONS
from tests.fastvae.support import SPECS, mlp_spec


@pytest.mark.parametrize("name", SPECS)
def test_json_round_trip_keeps_every_spec(name: str) -> None:
    spec = SPECS[name]
    text = spec_to_json(spec)
    assert spec_from_json(text) == spec
    assert spec_to_json(spec_from_json(text)) == text
    assert hash(spec_from_json(text)) == hash(spec)


@given(
    widths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    layout=st.sampled_from(["separate", "chunked", "interleaved"]),
    parametrization=st.sampled_from(["logvar", "softplus_std", "variance"]),
    eps=st.floats(0, 1, allow_subnormal=False),
    condition=st.none() | st.builds(Condition, dim=st.integers(1, 4), encoder=st.just(True), decoder=st.booleans()),
)
def test_json_round_trip_over_random_specs(
    widths: list[int], layout: str, parametrization: str, eps: float, condition: Condition | None
) -> None:
    spec = mlp_spec(
        features=widths[0],
        latent_dim=widths[-1],
        layout=layout,
        parametrization=parametrization,
        eps=eps,
        condition=condition,
    )
    assert spec_from_json(spec_to_json(spec)) == spec


def document() -> dict[str, object]:
    loaded = json.loads(spec_to_json(mlp_spec()))
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fastvae_spec": 2}, "version 2 is not 1"),
        ({"surprise": 1}, "unknown field 'surprise'"),
        ({"input_shape": "wide"}, r"input_shape: expected a list, found 'wide'"),
        ({"input_shape": [6.0]}, r"input_shape\[0\]: expected int, found 6.0"),
        ({"input_shape": [True]}, r"input_shape\[0\]: expected int, found True"),
        ({"input_shape": [0]}, "input_shape must be positive"),
        ({"input_shape": [7]}, "takes rows of shape"),
        ({"dtype": "int8"}, "dtype: expected one of 'float16'"),
        ({"likelihood": {"kind": "gamma"}}, "kind is one of bernoulli, gaussian_fixed"),
        ({"likelihood": {"kind": "gaussian_fixed", "variance": 0.0}}, "variance must be positive"),
        ({"encoder": [{"kind": "linear", "name": "e"}]}, r"encoder\[0\]: missing field 'in_features'"),
        ({"encoder": [{"kind": "activation", "function": "swish"}]}, "expected one of 'identity', 'relu'"),
        ({"posterior": None}, "posterior: expected an object"),
        ({"kind": "gan"}, "expected kind 'vae'"),
    ],
)
def test_wrong_fields_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(WeightFormatError, match=message):
        spec_from_json(json.dumps(document() | change), source="model.json")


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 200_000, '{"kind": "vae"}', b"\xff"])
def test_text_that_is_no_spec(text: str | bytes) -> None:
    with pytest.raises(WeightFormatError, match=r"^model.json: "):
        spec_from_json(text, source="model.json")


def test_missing_field() -> None:
    incomplete = document()
    del incomplete["posterior"]
    with pytest.raises(WeightFormatError, match="missing field 'posterior'"):
        spec_from_json(json.dumps(incomplete))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Linear("l", 0, 3), "in_features must be positive"),
        (lambda: Conv2d("c", 4, 6, (3, 3), groups=4), "groups 4 must divide"),
        (lambda: Conv2d("c", 4, 4, (3, 3), padding=(-1, 0)), "padding must not be negative"),
        (lambda: ConvTranspose2d("c", 1, 1, (3, 3), output_padding=(1, 0)), "output_padding must be smaller"),
        (lambda: BatchNorm("b", 3, eps=-1.0), "eps must not be negative"),
        (lambda: Activation("relu", 0.1), "takes no alpha"),
        (lambda: GaussianHead("separate", logvar_min=1.0, logvar_max=-1.0), "logvar_min 1.0 exceeds logvar_max"),
        (lambda: PerDimensionGaussian(eps=-1.0), "eps must not be negative"),
        (lambda: Condition(2, encoder=False, decoder=False), "must join"),
        (lambda: GaussianHead("separate", joint=(Linear("q", 2, 4),)), "takes stacks mean and scale"),
        (lambda: GaussianHead("chunked", mean=(Linear("q", 2, 4),)), "takes one stack, joint"),
        (lambda: GaussianHead("chunked", joint=(), eps=-1.0), "eps must not be negative"),
        (lambda: Conv2d("c", 2, 2, (5, 5)).output_shape((2, 3, 3)), "leaves nothing"),
        (lambda: Conv2d("c", 2, 2, (1, 1)).output_shape((3, 3, 3)), "found \\(3, 3, 3\\)"),
        (lambda: ConvTranspose2d("c", 1, 1, (1, 1), padding=(2, 2)).output_shape((1, 2, 2)), "leaves nothing"),
        (lambda: BatchNorm("b", 3).output_shape((4,)), "first axis is 3"),
        (lambda: Affine("a", (3,)).output_shape((4,)), "takes rows of shape"),
        (lambda: Reshape((2, 2)).output_shape((5,)), "does not fit"),
        (lambda: GaussianHead("chunked", joint=(Linear("q", 2, 3),)).output_shape((2,)), "even number"),
    ],
)
def test_layers_refuse_what_cannot_be(build: object, message: str) -> None:
    with pytest.raises(WeightFormatError, match=message):
        build()  # type: ignore[operator]


def test_models_refuse_what_does_not_fit_together() -> None:
    good = mlp_spec()
    with pytest.raises(WeightFormatError, match="the decoder makes shape"):
        dataclasses.replace(good, decoder=(Linear("d", 3, 7),))
    with pytest.raises(WeightFormatError, match="the posterior has shape"):
        dataclasses.replace(good, latent_shape=(4,))
    with pytest.raises(WeightFormatError, match="is used as"):
        dataclasses.replace(good, decoder=(Linear("e.0", 3, 6),))
    with pytest.raises(WeightFormatError, match="flat or an image"):
        dataclasses.replace(good, input_shape=(2, 3))


def test_tied_weights_are_allowed_where_shapes_agree() -> None:
    spec = ModelSpec(
        input_shape=(4,),
        latent_shape=(4,),
        encoder=(Linear("tied", 4, 4), Activation("tanh"), Linear("tied", 4, 4)),
        posterior=GaussianHead("separate", mean=(Linear("m", 4, 4),), scale=(Linear("s", 4, 4),)),
        decoder=(Linear("tied", 4, 4), Flatten()),
        likelihood=Bernoulli(),
    )
    assert spec.tensors()["tied.weight"] == (4, 4)


@pytest.mark.parametrize(("shape", "latent", "expected"), [((2, 8, 8), (4,), 4), ((2, 4, 4), (2, 4, 4), 32)])
def test_latent_dim_counts_latents(shape: tuple[int, ...], latent: tuple[int, ...], expected: int) -> None:
    matching = [s for s in SPECS.values() if s.input_shape == shape and s.latent_shape == latent]
    assert matching
    assert all(spec.latent_dim == expected for spec in matching)


def test_fixed_gaussian_needs_a_finite_variance() -> None:
    with pytest.raises(WeightFormatError, match="positive and finite"):
        FixedGaussian(float("inf"))


def test_layers_know_the_activations_the_kernels_have() -> None:
    assert get_args(get_type_hints(Activation)["function"]) == ACTIVATIONS

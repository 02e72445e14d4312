import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench import datasets
from fastvae import VAE, layers
from fastvae.formats import native
from fastvae.model import Model, check_model
from fastvae.spec import Bernoulli, GaussianHead, ModelSpec
from fastvae.training import Recipe, SpecModule, kl_to_prior, standardize
from fastvae.training.loop import masked
from tools import train_demo
from tools.demo_cards import cards_page
from tools.demo_models import breast_cancer_spec, digits_spec, mnist_spec

SPECS = {"digits": digits_spec, "mnist": mnist_spec, "breast_cancer": breast_cancer_spec}
SMALL = {"digits": 50, "mnist": 8, "breast_cancer": 100}
DEMO = Path(__file__).parents[2] / "fastvae" / "demo"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets of a few rows a class, from the same split."""

    def load(name: str) -> datasets.Dataset:
        rng = np.random.default_rng(0)
        spec, classes = SPECS[name](), 2 if name == "breast_cancer" else 10
        labels = np.repeat(np.arange(classes), SMALL[name])
        rows = rng.random((len(labels), *spec.input_shape), dtype=np.float32)
        return datasets.Dataset(name, rows, labels, rows, labels, tuple(map(str, range(classes))))

    monkeypatch.setattr(datasets, "load", load)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.usefixtures("small")
def test_same_seed_same_bytes(name: str, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        train_demo.main([name, "--epochs", "1", "--out", str(tmp_path / folder)])
    first, second = ((tmp_path / folder / f"{name}.safetensors").read_bytes() for folder in ("a", "b"))
    assert first == second
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["README.md", f"{name}.safetensors"]


@pytest.mark.usefixtures("small")
def test_another_seed_other_weights() -> None:
    one, other = (train_demo.train("digits", seed=seed, epochs=1) for seed in (0, 1))
    assert not torch.equal(one.weights["posterior.mean.weight"], other.weights["posterior.mean.weight"])


def test_a_few_epochs_already_learn() -> None:
    def elbo(epochs: int) -> float:
        return float(train_demo.train("digits", epochs=epochs).card["held_out_elbo"].split()[0])

    assert elbo(2) > elbo(1) > -64 * math.log(2)


def test_scaled_recipe_keeps_its_warm_up_in_proportion() -> None:
    recipe = Recipe(epochs=100, kl_warmup=30).scaled(10)
    assert (recipe.epochs, recipe.kl_warmup) == (10, 3)


@pytest.mark.usefixtures("small")
def test_interrupted_run_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_demo, "judge", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train_demo.main(["digits", "--epochs", "1", "--out", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", SPECS)
def test_file_computes_what_the_module_computed(name: str, tmp_path: Path) -> None:
    module = _perturbed(SPECS[name]())
    native.write(Model(module.spec, module.state_dict(), {}), tmp_path / "model.safetensors")
    model = check_model(native.read(tmp_path / "model.safetensors"), source="model")
    weights = {key: weight.double() for key, weight in model.weights.items()}
    x = torch.rand(5, *model.spec.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    module = module.double()
    mean, logvar = module.encode(x)
    features = _evaluate(model.spec.encoder, weights, x)
    torch.testing.assert_close(_evaluate(model.spec.posterior.mean, weights, features), mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(_evaluate(model.spec.posterior.scale, weights, features), logvar, rtol=1e-12, atol=0)
    torch.testing.assert_close(_evaluate(model.spec.decoder, weights, mean), module.decode(mean))


@pytest.mark.usefixtures("small")
def test_training_restores_global_state() -> None:
    state = torch.random.get_rng_state()
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    train_demo.train("digits", epochs=1, threads=1)
    assert before == (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.usefixtures("small")
def test_card_says_how_to_repeat_the_run() -> None:
    card = train_demo.train("digits", seed=3, epochs=1, exclude_classes=[1, 2]).card
    assert card["command"].endswith("digits --seed 3 --threads 1 --epochs 1 --exclude-classes 1 2")
    assert card.keys() >= {"title", "data", "licence", "seed", "held_out_elbo", "architecture", "training", "versions"}


def test_unknown_model_is_refused() -> None:
    with pytest.raises(ValueError, match="digits, mnist, breast_cancer"):
        train_demo.train("faces")


def test_standardize_maps_data_to_zero_mean_and_unit_variance_and_back() -> None:
    module = SpecModule(breast_cancer_spec())
    rows = torch.tensor(datasets.load("breast_cancer").train)
    standardize(module, rows)
    standard = module.get_submodule("encoder.standardize")(rows)
    torch.testing.assert_close(standard.mean(0), torch.zeros(30), rtol=0, atol=1e-4)
    torch.testing.assert_close(standard.std(0), torch.ones(30), rtol=1e-4, atol=0)
    torch.testing.assert_close(module.get_submodule("decoder.units")(standard), rows, rtol=1e-4, atol=1e-4)


def test_log_likelihood_and_kl_agree_with_torch_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, features = torch.rand(2, 4, 30, generator=generator, dtype=torch.float64)
    table = _perturbed(breast_cancer_spec()).double()
    std = torch.exp(0.5 * table.get_parameter("likelihood.logvar"))
    expected = torch.distributions.Normal(features, std).log_prob(rows).sum(1)
    torch.testing.assert_close(table.log_likelihood(rows, features), expected)
    prior = torch.distributions.Normal(0.0, 1.0)
    posterior = torch.distributions.Normal(features, torch.exp(0.5 * rows))
    kl = torch.distributions.kl_divergence(posterior, prior).sum(1)
    torch.testing.assert_close(kl_to_prior(features, rows), kl)
    images, logits = torch.rand(2, 4, 1, 8, 8, generator=generator, dtype=torch.float64)
    bernoulli = torch.distributions.Bernoulli(logits=logits, validate_args=False)
    torch.testing.assert_close(
        SpecModule(digits_spec()).log_likelihood(images, logits), bernoulli.log_prob(images).sum((1, 2, 3))
    )


def test_learned_variance_keeps_its_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    demo = train_demo.DEMOS["breast_cancer"]
    recipe = Recipe(epochs=1, min_std=1.5)
    changed = train_demo.Demo(demo.title, demo.data, demo.licence, demo.spec, recipe)
    monkeypatch.setitem(train_demo.DEMOS, "breast_cancer", changed)
    logvar = train_demo.train("breast_cancer").weights["likelihood.logvar"]
    std = torch.tensor(datasets.load("breast_cancer").train).std(0)
    assert (torch.exp(0.5 * logvar) > std).all()


def test_masked_puts_the_neutral_value_into_the_asked_share() -> None:
    batch, neutral = torch.ones(400, 30), torch.full((30,), 9.0)
    recipe = Recipe(epochs=1, masked_batches=1.0, masked_values=0.7)
    share = (masked(batch, neutral, recipe, torch.Generator().manual_seed(0)) == 9).float().mean()
    assert 0.3 < share < 0.4
    assert masked(batch, neutral, Recipe(epochs=1), torch.Generator().manual_seed(0)) is batch


@pytest.mark.parametrize("name", SPECS)
def test_embedded_model_is_whole_and_is_the_architecture_in_the_tool(name: str) -> None:
    model = check_model(native.read(DEMO / f"{name}.safetensors"), source=name)
    assert model.spec == SPECS[name]()
    assert "nats" in model.card["held_out_elbo"]


def test_embedded_models_are_small_and_the_page_shows_their_cards() -> None:
    assert sum(path.stat().st_size for path in DEMO.glob("*.safetensors")) < 1_500_000
    assert (DEMO / "README.md").read_text(encoding="utf-8") == cards_page(DEMO)


def test_residual_blocks_can_be_trained() -> None:
    block = layers.Residual((layers.Linear("e.1", 6, 6), layers.Activation("relu")), (layers.Linear("e.2", 6, 6),))
    spec = ModelSpec(
        input_shape=(6,),
        latent_shape=(6,),
        encoder=(block,),
        posterior=GaussianHead("separate", mean=(layers.Linear("m", 6, 6),), scale=(layers.Linear("s", 6, 6),)),
        decoder=(),
        likelihood=Bernoulli(),
    )
    module = _perturbed(spec)
    x = torch.rand(3, 6, generator=torch.Generator().manual_seed(1))
    posterior = VAE(Model(spec, module.state_dict())).encode(x)
    torch.testing.assert_close(module.encode(x)[0], posterior.mean)
    torch.testing.assert_close(module.encode(x)[1], posterior.logvar)


def _perturbed(spec: ModelSpec) -> SpecModule:
    """A module in evaluation mode with no weight or statistic left at zero or one."""
    module = SpecModule(spec).eval()
    generator = torch.Generator().manual_seed(0)
    for value in module.state_dict().values():
        value.add_(0.1 + 0.1 * torch.rand(value.shape, generator=generator))
    return module


def _evaluate(stack: layers.Stack, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """The layers of ``stack`` by their definitions, read from the spec and the file's weights alone."""
    for layer in stack:
        own = {key.rsplit(".", 1)[1]: weights[key] for key in layer.tensors()}
        if isinstance(layer, layers.Linear):
            x = x @ own["weight"].T + own.get("bias", 0)
        elif isinstance(layer, layers.Conv2d):
            x = F.conv2d(x, own["weight"], own.get("bias"), layer.stride, layer.padding)
        elif isinstance(layer, layers.ConvTranspose2d):
            x = F.conv_transpose2d(x, own["weight"], own.get("bias"), layer.stride, layer.padding)
        elif isinstance(layer, layers.BatchNorm):
            mean, var, weight, bias = (
                own[key][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
            )
            x = (x - mean) / torch.sqrt(var + layer.eps) * weight + bias
        elif isinstance(layer, layers.Affine):
            x = x * own["scale"] + own["shift"]
        elif isinstance(layer, layers.Activation):
            assert layer.function == "relu"
            x = x.clamp_min(0)
        else:
            x = x.reshape(len(x), *layer.output_shape(tuple(x.shape[1:])))
    return x

"""Models made in the test: random ones of every kind a spec can describe, and one with a known likelihood."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastvae.api import VAE
from fastvae.layers import (
    Activation,
    Affine,
    BatchNorm,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    Linear,
    Reshape,
    Residual,
)
from fastvae.model import Model
from fastvae.plan import Plan
from fastvae.runtime import Settings
from fastvae.runtime.executor import Draw, Executor
from fastvae.spec import (
    Bernoulli,
    Condition,
    FixedGaussian,
    GaussianHead,
    Likelihood,
    ModelSpec,
    PerDimensionGaussian,
    PredictedGaussian,
)

RELU = Activation("relu")


def random_model(spec: ModelSpec, seed: int = 0) -> Model:
    """``spec`` with random float weights of sensible scale; running variances and scales positive."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in spec.tensors().items():
        values = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1
        if name.endswith(("running_var", ".scale")):
            values = values.abs() + 0.5
        elif name.endswith(".weight") and len(shape) > 1:
            values = values / float(np.sqrt(np.prod(shape[1:])))
        weights[name] = values.to(getattr(torch, spec.dtype))
    return Model(spec, weights)


def vae(spec: ModelSpec, seed: int = 0, **settings: object) -> VAE:
    return VAE(random_model(spec, seed), Settings(**settings))  # type: ignore[arg-type]


def mlp_spec(
    likelihood: Likelihood | None = None,
    *,
    features: int = 6,
    latent_dim: int = 3,
    layout: str = "separate",
    condition: Condition | None = None,
    **head: object,
) -> ModelSpec:
    """A small MLP VAE on flat rows; ``head`` are further fields of the posterior's GaussianHead."""
    likelihood = likelihood or FixedGaussian(0.5)
    extra_x = condition.dim if condition and condition.encoder else 0
    extra_z = condition.dim if condition and condition.decoder else 0
    decoder = (Linear("d.0", latent_dim + extra_z, 8), Activation("tanh"))
    if not isinstance(likelihood, PredictedGaussian):
        decoder += (Linear("d.1", 8, features),)
    return ModelSpec(
        input_shape=(features,),
        latent_shape=(latent_dim,),
        encoder=(Linear("e.0", features + extra_x, 8), BatchNorm("e.1", 8), Activation("silu")),
        posterior=gaussian_head("q", 8, latent_dim, layout, **head),
        decoder=decoder,
        likelihood=likelihood,
        condition=condition,
    )


def gaussian_head(name: str, features: int, size: int, layout: str, **fields: object) -> GaussianHead:
    """A head of linear layers in any of the three layouts."""
    if layout == "separate":
        stacks = {
            "mean": (Linear(f"{name}.mean", features, size),),
            "scale": (Linear(f"{name}.scale_", features, size),),
        }
    else:
        stacks = {"joint": (Linear(f"{name}.joint", features, 2 * size),)}
    return GaussianHead(layout, **stacks, **fields)  # type: ignore[arg-type]


def conv_spec(likelihood: Likelihood | None = None, condition: Condition | None = None) -> ModelSpec:
    """A small convolutional VAE with batch norm on 2x8x8 images."""
    extra_x = condition.dim if condition and condition.encoder else 0
    extra_z = condition.dim if condition and condition.decoder else 0
    return ModelSpec(
        input_shape=(2, 8, 8),
        latent_shape=(4,),
        encoder=(
            Conv2d("e.0", 2 + extra_x, 6, (3, 3), (2, 2), (1, 1)),
            BatchNorm("e.1", 6),
            Activation("leaky_relu", 0.2),
            Conv2d("e.2", 6, 4, (3, 3), (1, 1), (1, 1), groups=2, bias=False),
            BatchNorm("e.3", 4, affine=False),
            RELU,
            Flatten(),
        ),
        posterior=gaussian_head("q", 64, 4, "chunked"),
        decoder=(
            Linear("d.0", 4 + extra_z, 64),
            RELU,
            Reshape((4, 4, 4)),
            ConvTranspose2d("d.1", 4, 6, (4, 4), (2, 2), (1, 1)),
            BatchNorm("d.2", 6),
            Activation("elu"),
            Conv2d("d.3", 6, 2, (1, 1)),
        ),
        likelihood=likelihood or Bernoulli(),
        condition=condition,
    )


def residual_spec() -> ModelSpec:
    """A small MLP VAE of residual blocks: nested ones, projections, activations before and after the sum."""
    block = Residual((Linear("e.1", 8, 8), BatchNorm("e.2", 8), RELU, Linear("e.3", 8, 8)))
    inner = Residual((Linear("d.1", 10, 4), RELU, Linear("d.2", 4, 10)))
    return ModelSpec(
        input_shape=(6,),
        latent_shape=(3,),
        encoder=(Linear("e.0", 6, 8), RELU, block, RELU),
        posterior=gaussian_head("q", 8, 3, "separate"),
        decoder=(
            Residual((Linear("d.0", 3, 10), Activation("tanh"), inner), (Linear("d.3", 3, 10, bias=False),)),
            Affine("d.4", (10,)),
            Residual((Affine("d.5", (10,)), Activation("silu"))),
            Linear("d.6", 10, 6),
        ),
        likelihood=FixedGaussian(0.5),
    )


def residual_conv_spec() -> ModelSpec:
    """A small convolutional VAE with a bottleneck block and one whose shortcut is a strided convolution."""
    down = Residual(
        (Conv2d("e.0", 2, 4, (3, 3), (2, 2), (1, 1)), BatchNorm("e.1", 4), RELU, Conv2d("e.2", 4, 4, (1, 1))),
        (Conv2d("e.3", 2, 4, (1, 1), (2, 2)), BatchNorm("e.4", 4)),
    )
    return ModelSpec(
        input_shape=(2, 8, 8),
        latent_shape=(4,),
        encoder=(down, RELU, Flatten()),
        posterior=gaussian_head("q", 64, 4, "chunked"),
        decoder=(
            Linear("d.0", 4, 32),
            Reshape((2, 4, 4)),
            Residual((RELU, Conv2d("d.1", 2, 2, (3, 3), padding=(1, 1)), BatchNorm("d.2", 2))),
            ConvTranspose2d("d.3", 2, 2, (4, 4), (2, 2), (1, 1)),
        ),
        likelihood=Bernoulli(),
    )


def predicted_gaussian(features: int = 6) -> PredictedGaussian:
    """A likelihood whose variance the decoder of :func:`mlp_spec` predicts."""
    return PredictedGaussian(gaussian_head("p", 8, features, "interleaved", parametrization="softplus_std", eps=1e-3))


SPECS: dict[str, ModelSpec] = {
    "mlp_fixed": mlp_spec(),
    "mlp_per_dimension": mlp_spec(PerDimensionGaussian()),
    "mlp_predicted": mlp_spec(predicted_gaussian()),
    "mlp_bernoulli_interleaved": mlp_spec(Bernoulli(), layout="interleaved"),
    "mlp_softplus_chunked": mlp_spec(layout="chunked", parametrization="softplus_std"),
    "mlp_clamped": mlp_spec(logvar_min=-0.1, logvar_max=0.1),
    "mlp_conditional": mlp_spec(condition=Condition(3)),
    "mlp_conditional_decoder": mlp_spec(condition=Condition(3, encoder=False)),
    "mlp_residual": residual_spec(),
    "conv": conv_spec(),
    "conv_residual": residual_conv_spec(),
    "conv_conditional": conv_spec(condition=Condition(2)),
    "conv_standardised": ModelSpec(
        input_shape=(2, 4, 4),
        latent_shape=(2, 4, 4),
        encoder=(Affine("scale_in", (2,)), Conv2d("e", 2, 3, (3, 3), padding=(1, 1))),
        posterior=GaussianHead("chunked", joint=(Conv2d("q", 3, 4, (1, 1)),)),
        decoder=(ConvTranspose2d("d", 2, 2, (3, 3), padding=(1, 1), groups=2), Affine("scale_out", (2, 4, 4))),
        likelihood=FixedGaussian(0.1),
    ),
}


def data_for(spec: ModelSpec, rows: int, seed: int = 0) -> NDArray[np.float64]:
    """Rows in [0, 1], which every likelihood takes."""
    return np.random.default_rng(seed).random((rows, *spec.input_shape))


def condition_for(spec: ModelSpec, rows: int, seed: int = 0) -> NDArray[np.float64] | None:
    if spec.condition is None:
        return None
    return np.random.default_rng(seed + 1).random((rows, spec.condition.dim))


def inputs_of(spec: ModelSpec, rows: int = 5) -> dict[str, Tensor]:
    """Every input that a plan of any verb may ask for, in float64."""
    given = {"x": data_for(spec, rows), "z": np.random.default_rng(2).normal(size=(rows, *spec.latent_shape))}
    condition = condition_for(spec, rows)
    if condition is not None:
        given["condition"] = condition
    tensors = {name: torch.from_numpy(values) for name, values in given.items()}
    return tensors | {"mask": torch.from_numpy(np.random.default_rng(3).random((rows, *spec.input_shape)) < 0.5)}


def run_plan(plan: Plan, inputs: dict[str, Tensor], rows: int = 5) -> tuple[Tensor, ...]:
    """The outputs of a float64 plan by the reference implementation, for those of ``inputs`` that it takes."""
    cpu = torch.device("cpu")
    given = {name: tensor for name, tensor in inputs.items() if name in plan.inputs}
    executor = Executor(plan, impl="reference", device=cpu, dtype=torch.float64)
    return executor(given, Draw(rows, 3, 0, cpu, torch.float64))


@dataclass(frozen=True)
class LinearGaussian:
    """x | z ~ N(W z + b, s2 I), z ~ N(0, I): p(x), and the posterior of z given any entries, are Gaussian."""

    W: NDArray[np.float64]
    b: NDArray[np.float64]
    s2: float

    def posterior(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """A and c of the exact posterior mean A x + c, and its covariance."""
        precision = np.eye(self.W.shape[1]) + self.W.T @ self.W / self.s2
        covariance = np.linalg.inv(precision)
        A = covariance @ self.W.T / self.s2
        return A, -A @ self.b, covariance

    def log_evidence(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        covariance = self.W @ self.W.T + self.s2 * np.eye(len(self.b))
        centred = x - self.b
        mahalanobis = (centred @ np.linalg.inv(covariance) * centred).sum(1)
        log_det = float(np.linalg.slogdet(covariance)[1])
        return np.asarray(-0.5 * (mahalanobis + log_det + len(self.b) * np.log(2 * np.pi)))

    def conditional_mean(self, x: NDArray[np.float64], missing: NDArray[np.bool_]) -> NDArray[np.float64]:
        """E[x | observed entries], rows one by one."""
        covariance = self.W @ self.W.T + self.s2 * np.eye(len(self.b))
        result = x.copy()
        for row, hidden in zip(result, missing, strict=True):
            seen = ~hidden
            solve = np.linalg.solve(covariance[np.ix_(seen, seen)], row[seen] - self.b[seen])
            row[hidden] = self.b[hidden] + covariance[np.ix_(hidden, seen)] @ solve
        return result

    def vae(
        self,
        *,
        shift: float = 0.0,
        widen: float = 1.0,
        **settings: object,
    ) -> VAE:
        """As a VAE in float64 whose encoder is the exact posterior, if that is diagonal; or made worse.

        ``shift`` is added to the posterior mean, its standard deviation multiplied by ``widen``.
        """
        A, c, covariance = self.posterior()
        features, latent_dim = self.W.shape
        spec = ModelSpec(
            input_shape=(features,),
            latent_shape=(latent_dim,),
            encoder=(),
            posterior=GaussianHead(
                "separate",
                mean=(Linear("mean", features, latent_dim),),
                scale=(Linear("variance", features, latent_dim),),
                parametrization="variance",
            ),
            decoder=(Linear("decoder", latent_dim, features),),
            likelihood=FixedGaussian(self.s2),
            dtype="float64",
        )
        weights = {
            "mean.weight": A,
            "mean.bias": c + shift,
            "variance.weight": np.zeros_like(A),
            "variance.bias": np.diag(covariance) * widen**2,
            "decoder.weight": self.W,
            "decoder.bias": self.b,
        }
        tensors = {name: torch.from_numpy(np.asarray(value, dtype=np.float64)) for name, value in weights.items()}
        return VAE(Model(spec, tensors), Settings(**settings))  # type: ignore[arg-type]


def linear_gaussian(features: int = 5, latent_dim: int = 2, s2: float = 0.3, seed: int = 0) -> LinearGaussian:
    """A random one with orthogonal columns of W, so that the exact posterior is diagonal."""
    generator = np.random.default_rng(seed)
    columns = np.linalg.qr(generator.normal(size=(features, latent_dim)))[0]
    return LinearGaussian(columns * (1.0 + np.arange(latent_dim)), generator.normal(size=features), s2)

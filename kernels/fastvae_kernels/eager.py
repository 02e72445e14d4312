"""Every op as anybody would write it in plain PyTorch, in whatever precision its tensors have.

Evaluated in a narrow dtype it sets the error budget; in float64 it is the oracle that budgets are counted from.
Written apart from the references, with other formulas where there are any, so that a mistake shows.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .eager_likelihoods import LIKELIHOODS, masked_sum, samples
from .eager_training import elbo_loss
from .oracle_noise import oracle_normals, oracle_uniforms

__all__ = ["EAGER", "activate"]


def activate(y: Tensor, activation: str, alpha: float | None) -> Tensor:
    """The pointwise activation of that name."""
    table: dict[str, Any] = {
        "identity": lambda: y,
        "relu": lambda: F.relu(y),
        "leaky_relu": lambda: F.leaky_relu(y, 0.01 if alpha is None else alpha),
        "elu": lambda: F.elu(y, 1.0 if alpha is None else alpha),
        "selu": lambda: F.selu(y),
        "gelu": lambda: F.gelu(y),
        "gelu_tanh": lambda: F.gelu(y, approximate="tanh"),
        "silu": lambda: F.silu(y),
        "tanh": lambda: torch.tanh(y),
        "sigmoid": lambda: torch.sigmoid(y),
        "softplus": lambda: torch.logaddexp(y, torch.zeros_like(y)),
    }
    out: Tensor = table[activation]()
    return out


def _tf32(x: Tensor) -> Tensor:
    """float32 with 11 significant bits, to nearest even: the mantissa in [0.5, 1) as a multiple of 2**-11."""
    mantissa, exponent = torch.frexp(x)
    return torch.where(x.isfinite(), torch.ldexp((mantissa * 2.0**11).round(), exponent - 11), x)


def _product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    precision: str = "ieee",
    x_scale: Tensor | None = None,
    weight_scale: Tensor | None = None,
) -> Tensor:
    """x @ weight.T + bias; 8-bit operands in float32. In float64 "tf32" is exact: its rounding is eager's error."""
    if x.dtype == torch.float8_e4m3fn:
        x, weight, bias = x.float(), weight.float(), None if bias is None else bias.float()
    if precision == "tf32" and x.dtype == torch.float32:
        x, weight = _tf32(x), _tf32(weight)
    if x_scale is None or weight_scale is None:
        return F.linear(x, weight, bias)
    y = (x @ weight.T) * x_scale[:, None] * weight_scale
    return y if bias is None else y + bias


def _linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    activation: str = "identity",
    alpha: float | None = None,
    precision: str = "ieee",
    x_scale: Tensor | None = None,
    weight_scale: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    y = activate(_product(x, weight, bias, precision, x_scale, weight_scale), activation, alpha)
    y = y if residual is None else y + residual
    return y.to(out_dtype or (torch.bfloat16 if x.dtype == torch.float8_e4m3fn else x.dtype))


def _linear_prior(
    n: int,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "identity",
    alpha: float | None = None,
    precision: str = "ieee",
    **where: int,
) -> Tensor:
    z = oracle_normals(n, weight.shape[1], **where).to(weight)
    return activate(_product(z, weight, bias, precision), activation, alpha)


def _quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """q is left unrounded, so that the budget is one rounding to e4m3 of each element and no more."""
    largest = x.abs().amax(1)
    scale = torch.where(largest == 0, 1, (largest / 448).clamp_min(2.0**-126))
    return x / scale[:, None], scale


def _ended(y: Tensor, settings: dict[str, Any]) -> Tensor:
    """What follows a convolution's bias."""
    residual = settings["residual"]
    y = activate(y, settings["activation"], settings["alpha"])
    return y if residual is None else y + residual


def _end_of(kwargs: dict[str, Any]) -> dict[str, Any]:
    defaults = {"residual": None, "activation": "identity", "alpha": None}
    return {name: kwargs.pop(name, default) for name, default in defaults.items()}


def _conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, **kwargs: Any) -> Tensor:
    """8-bit operands in float32."""
    end, scale, out_dtype = _end_of(kwargs), kwargs.pop("scale", None), kwargs.pop("out_dtype", None)
    dtype = out_dtype or (torch.bfloat16 if x.dtype == torch.float8_e4m3fn else x.dtype)
    if x.dtype == torch.float8_e4m3fn:
        x, weight, bias = x.float(), weight.float(), None if bias is None else bias.float()
    if len(kwargs.get("padding", ())) == 4:
        top, left, bottom, right = kwargs.pop("padding")
        x = F.pad(x, (left, right, top, bottom))
    if scale is None:
        return _ended(F.conv2d(x, weight, bias, **kwargs), end).to(dtype)
    y = F.conv2d(x, weight, **kwargs) * scale[:, None, None]
    return _ended(y if bias is None else y + bias[:, None, None], end).to(dtype)


def _conv2d_statistics(*args: Any, block: int, **kwargs: Any) -> tuple[Tensor, Tensor]:
    y = _conv2d(*args, **kwargs)
    blocks = [pixels.to(torch.promote_types(y.dtype, torch.float32)) for pixels in torch.split(y.flatten(2), block, 2)]
    moments = [(each.mean(2), each.var(2, correction=0) * each.shape[2]) for each in blocks]
    return y, torch.stack([torch.stack(pair, 2) for pair in moments], 1)


def _to_bytes(x: Tensor, scale: float = 1.0, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Left unrounded, so that the budget is one rounding to a whole number and no more."""
    y = 255 * (x * scale + shift).clamp(0, 1)
    nan = y.isnan().flatten(1).any(1).to(x.dtype)
    return y.permute(0, 2, 3, 1) if y.ndim == 4 else y, nan


def _conv_image(*args: Any, scale: float = 0.5, shift: float = 0.5, **kwargs: Any) -> tuple[Tensor, Tensor]:
    return _to_bytes(_conv2d(*args, **kwargs), scale, shift)


def _conv_score(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    data: Tensor,
    *,
    likelihood: str = "bernoulli",
    logvar: Tensor | None = None,
    mask: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    return _score(_conv2d(x, weight, bias, **kwargs), data, likelihood, logvar, mask)


def _conv_transpose2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, **kwargs: Any) -> Tensor:
    end = _end_of(kwargs)
    return _ended(F.conv_transpose2d(x, weight, bias, **kwargs), end)


def _group_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    groups: int,
    eps: float = 1e-5,
    activation: str = "identity",
    alpha: float | None = None,
    out_scale: float | None = None,
) -> Tensor:
    """Contiguous: for channels_last on a CPU PyTorch's is E[x²] - E[x]². 8 bits as of `_norm_apply`."""
    y = activate(F.group_norm(x.contiguous(), groups, weight, bias, eps), activation, alpha)
    return y if out_scale is None else (y / out_scale).clamp(-448, 448)


def _channel_statistics(x: Tensor, *, block: int, rest: bool = False) -> Tensor:
    """By torch.var_mean; what rounding the mean left is the mean of what is left when it is subtracted."""
    found = []
    for part in torch.split(x.flatten(2), block, 2):
        var, mean = torch.var_mean(part, 2, correction=0)
        numbers = [mean, var * part.shape[2], (part - mean[..., None]).mean(2)]
        found.append(torch.stack(numbers[: 2 + rest], 2))
    return torch.stack(found, 1)


def _norm_affine(
    statistics: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    pixels: int,
    block: int = 0,
    counts: Tensor | None = None,
    groups: int,
    eps: float = 1e-5,
) -> Tensor:
    """The variance as the mean of the blocks' own and of their means' squared distances."""
    n, blocks, channels = statistics.shape[:3]
    sizes = [block] * (blocks - 1) + [pixels - block * (blocks - 1)] if counts is None else counts.tolist()
    size = statistics.new_tensor(sizes)[:, None]

    def over_group(part: Tensor) -> Tensor:
        mean = ((part * size).sum(1) / pixels).view(n, groups, -1).mean(2)
        return mean.repeat_interleave(channels // groups, 1)

    means = statistics[..., 0] if statistics.shape[3] == 2 else statistics[..., 0] + statistics[..., 2]
    mean = over_group(means)
    variance = over_group(statistics[..., 1] / size + (means - mean[:, None]) ** 2)
    scale = (1 if weight is None else weight) / (variance + eps).sqrt()
    shift = torch.zeros_like(scale) if bias is None else bias.expand_as(scale)
    return torch.stack([mean, scale, shift], 1)


def _norm_apply(
    x: Tensor,
    affine: Tensor,
    activation: str = "identity",
    alpha: float | None = None,
    out_scale: float | None = None,
) -> Tensor:
    """In 8 bits left unrounded, so that the budget is one rounding to e4m3 of each element and no more."""
    mean, scale, shift = affine[..., None, None].unbind(1)
    y = activate((x - mean) * scale + shift, activation, alpha).to(x.dtype)
    return y if out_scale is None else (y / out_scale).clamp(-448, 448)


def _attention(q: Tensor, k: Tensor, v: Tensor, *, heads: int = 1) -> Tensor:
    parts = zip(*(x.flatten(2).mT.chunk(heads, 2) for x in (q, k, v)), strict=True)
    y = torch.cat([F.scaled_dot_product_attention(*part) for part in parts], 2)
    return y.mT.reshape(len(q), v.shape[1], *q.shape[2:])


def _affine(
    x: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    activation: str = "identity",
    alpha: float | None = None,
) -> Tensor:
    def along(p: Tensor) -> Tensor:
        return p if p.shape == x.shape[1:] else p.view(-1, *[1] * (x.dim() - 2))

    y = x if scale is None else x * along(scale)
    return activate(y if shift is None else y + along(shift), activation, alpha).to(x.dtype)


def _logvar(
    raw: Tensor,
    parametrization: str,
    eps: float = 0.0,
    minimum: float | None = None,
    maximum: float | None = None,
) -> Tensor:
    y = raw
    if parametrization == "softplus_std":
        y = 2 * (torch.logaddexp(raw, torch.zeros_like(raw)) + eps).log()
    elif parametrization == "variance":
        y = (raw + eps).log()
    return y if minimum is None and maximum is None else y.clamp(minimum, maximum)


def _bernoulli_nll(logits: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
    data = samples(logits, x)
    nll = F.binary_cross_entropy_with_logits(logits, data, reduction="none")
    return masked_sum(nll, x, mask)


def _gaussian_nll(mean: Tensor, logvar: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
    nll = 0.5 * (math.log(2 * math.pi) + logvar + (samples(mean, x) - mean) ** 2 * torch.exp(-logvar))
    return masked_sum(nll, x, mask)


def _squared_error(output: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
    return masked_sum((samples(output, x) - output) ** 2, x, mask)


def _score(output: Tensor, data: Tensor, likelihood: str, logvar: Tensor | None, mask: Tensor | None) -> Tensor:
    if logvar is not None:
        return _gaussian_nll(output, logvar, data, mask)
    return {"bernoulli": _bernoulli_nll, "squared_error": _squared_error}[likelihood](output, data, mask)


def _linear_score(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    data: Tensor,
    *,
    likelihood: str = "bernoulli",
    logvar: Tensor | None = None,
    mask: Tensor | None = None,
    activation: str = "identity",
    alpha: float | None = None,
    **settings: Any,
) -> Tensor:
    output = activate(_product(x, weight, bias, **settings), activation, alpha)
    return _score(output, data, likelihood, logvar, mask)


def _elbo(
    output: Tensor,
    data: Tensor,
    mean: Tensor,
    logvar: Tensor,
    *,
    likelihood: str = "bernoulli",
    output_logvar: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    reconstruction, kl = _score(output, data, likelihood, output_logvar, mask), _kl(mean, logvar)
    return reconstruction + samples(reconstruction, kl), reconstruction, kl


def _kl(mean: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * torch.sum(1 + logvar - mean**2 - torch.exp(logvar), dim=1)


def _draw(mean: Tensor, logvar: Tensor, seed: int | None, **where: Any) -> Tensor:
    if seed is None:
        return mean
    return mean + torch.exp(0.5 * logvar) * oracle_normals(*mean.shape, seed=seed, **where).to(mean)


def _reparameterize(mean: Tensor, logvar: Tensor, *, seed: int, **where: Any) -> tuple[Tensor, Tensor]:
    return _draw(mean, logvar, seed, **where), _kl(mean, logvar)


def _gaussian_head(
    x: Tensor,
    mean_weight: Tensor,
    mean_bias: Tensor | None,
    logvar_weight: Tensor,
    logvar_bias: Tensor | None,
    *,
    seed: int | None = None,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    posterior: bool = False,
    precision: str = "ieee",
    **where: Any,
) -> tuple[Tensor, ...]:
    mean = _product(x, mean_weight, mean_bias, precision)
    logvar = _product(x, logvar_weight, logvar_bias, precision).clamp(minimum, maximum)
    result = _draw(mean, logvar, seed, **where), _kl(mean, logvar)
    return (*result, mean, logvar) if posterior else result


def _bottleneck(
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str = "identity",
    alpha: float | None = None,
    *,
    precision: str = "ieee",
    **head: Any,
) -> tuple[Tensor, Tensor]:
    z, kl = _gaussian_head(precision=precision, **head)
    return activate(_product(z, weight, bias, precision), activation, alpha), kl


def _sample_normal(n: int, dim: int, *, dtype: torch.dtype, device: torch.device, **where: Any) -> Tensor:
    return oracle_normals(n, dim, **where).to(device, dtype)


def _sample_uniform(n: int, dim: int, *, dtype: torch.dtype, device: torch.device, **where: Any) -> Tensor:
    return oracle_uniforms(n, dim, **where).to(device, dtype)


EAGER: dict[str, Any] = {
    "sample_normal": _sample_normal,
    "sample_uniform": _sample_uniform,
    "reparameterize": _reparameterize,
    "linear": _linear,
    "linear_prior": _linear_prior,
    "quantize_rows": _quantize_rows,
    "gaussian_head": _gaussian_head,
    "bottleneck": _bottleneck,
    "conv2d": _conv2d,
    "conv2d_statistics": _conv2d_statistics,
    "conv_image": _conv_image,
    "conv_score": _conv_score,
    "conv_transpose2d": _conv_transpose2d,
    "channel_statistics": _channel_statistics,
    "norm_affine": _norm_affine,
    "norm_apply": _norm_apply,
    "group_norm": _group_norm,
    "attention": _attention,
    "affine": _affine,
    "logvar": _logvar,
    "to_bytes": _to_bytes,
    "bernoulli_nll": _bernoulli_nll,
    "gaussian_nll": _gaussian_nll,
    "squared_error": _squared_error,
    **LIKELIHOODS,
    "linear_score": _linear_score,
    "elbo": _elbo,
    "elbo_loss": elbo_loss,
}
"""Every op by name; noise is the oracle's, cast to the dtype."""

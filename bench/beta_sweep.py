"""What beta, free bits and a capacity do to a model: reconstruction, divergence, bounds and active units, held out.

python -m bench.beta_sweep trains the same small VAE on scikit-learn's digits under each setting and several seeds, and
scores the digits held out. A row for each model is written to bench/results/beta_sweep.jsonl, a picture to
docs/beta_sweep.svg, and the table of docs/training.md to the terminal.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from bench import datasets
from bench.environment import environment
from fastvae_kernels import LinearSchedule, bernoulli_nll, elbo_loss, reparameterize

OUT, PICTURE = Path("bench/results/beta_sweep.jsonl"), Path("docs/beta_sweep.svg")
LATENT, HIDDEN, BATCH, EPOCHS = 10, 128, 64, 40
DRAWS = 100
# A unit is active if its posterior mean varies over the data by more than this (Burda et al. 2016).
ACTIVE = 0.01

Setting = dict[str, float]
SWEEP: dict[str, Setting] = {f"β = {beta:g}": {"beta": beta} for beta in (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)}
OTHERS: dict[str, Setting] = {
    "β = 4, free bits 0.5": {"beta": 4.0, "free_bits": 0.5},
    "β = 4, free bits 1": {"beta": 4.0, "free_bits": 1.0},
    "γ = 10, capacity 0 to 10": {"beta": 10.0, "capacity": 10.0},
    "γ = 10, capacity 0 to 20": {"beta": 10.0, "capacity": 20.0},
}


class Encoder(nn.Module):
    """Rows to a posterior."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(inputs, HIDDEN), nn.ReLU())
        self.mean, self.logvar = nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.hidden(x)
        return self.mean(h), self.logvar(h)


def trained(rows: Tensor, setting: Setting, seed: int, epochs: int) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder trained with `setting`; its capacity grows over the first half of the steps."""
    torch.manual_seed(seed)
    width = rows.shape[1]
    encoder, decoder = Encoder(width), nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, width))
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=2e-3, fused=True)
    steps = epochs * -(-len(rows) // BATCH)
    grown = LinearSchedule(max(steps // 2, 1), setting.get("capacity", 0.0))
    step = 0
    for _ in range(epochs):
        for batch in rows[torch.randperm(len(rows))].split(BATCH):
            mean, logvar = encoder(batch)
            logits = decoder(mean + torch.exp(0.5 * logvar) * torch.randn_like(mean))
            constraint = {**setting, "capacity": grown(step)} if "capacity" in setting else setting
            loss = elbo_loss(logits, batch, mean, logvar, **constraint).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    return encoder, decoder


@torch.no_grad()
def judged(encoder: nn.Module, decoder: nn.Module, rows: Tensor) -> dict[str, float]:
    """Means over rows, in nats, and the number of active units."""
    mean, logvar = encoder(rows)
    z, kl = reparameterize(mean, logvar, seed=0, samples=DRAWS)
    likelihood = -bernoulli_nll(decoder(z.flatten(0, 1)), rows).view(DRAWS, -1)
    log_posterior = -0.5 * (logvar + (z - mean).square() * torch.exp(-logvar)).sum(2)
    log_weight = likelihood - 0.5 * z.square().sum(2) - log_posterior
    iwae = torch.logsumexp(log_weight, 0) - math.log(DRAWS)
    found = {"reconstruction": -likelihood.mean(), "kl": kl.mean(), "elbo": likelihood.mean() - kl.mean()}
    found["iwae"] = iwae.mean()
    active = int((mean.var(0) > ACTIVE).sum())
    return {**{name: round(float(value), 3) for name, value in found.items()}, "active": active}


def table(rows: list[dict[str, Any]]) -> str:
    """The means over seeds as Markdown."""
    names = ("reconstruction", "kl", "elbo", "iwae", "active")
    lines = ["| trained with | reconstruction | KL | ELBO | IWAE | active units |", "|---|---|---|---|---|---|"]
    by_setting = defaultdict(list)
    for row in rows:
        by_setting[row["setting"]].append(row)
    for setting, found in by_setting.items():
        means = [np.mean([row[name] for row in found]) for name in names]
        lines.append(f"| {setting} | " + " | ".join(f"{mean:.1f}" for mean in means) + " |")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """The two terms against each other, and the bounds by beta."""
    with matplotlib.rc_context({"svg.hashsalt": "fastvae", "svg.fonttype": "none"}):
        figure = Figure(figsize=(10, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for number, setting in enumerate(dict.fromkeys(row["setting"] for row in rows)):
            points = [row for row in rows if row["setting"] == setting]
            shape = {"marker": "o" if setting in SWEEP else "s", "color": f"C{number % 10}"}
            left.scatter(
                [row["kl"] for row in points], [row["reconstruction"] for row in points], label=setting, **shape
            )
        left.set(xlabel="KL, nats", ylabel="reconstruction, nats")
        left.legend(fontsize="small")
        sweep = [row for row in rows if row["setting"] in SWEEP]
        betas = sorted({row["beta"] for row in sweep})
        for name, label in (("elbo", "ELBO"), ("iwae", f"IWAE, {DRAWS} draws")):
            means = [np.mean([row[name] for row in sweep if row["beta"] == beta]) for beta in betas]
            right.plot(betas, means, marker="o", label=label)
        right.set_xscale("log", base=2)
        right.set(xlabel="β", ylabel="nats, held out")
        right.legend()
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Train, score, write and draw; see the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = datasets.load("digits")
    train, held_out = (torch.tensor(part).flatten(1) for part in (data.train, data.held_out))
    common = {"date": time.strftime("%Y-%m-%d"), **environment(), "epochs": options.epochs, "latent": LATENT}
    rows = []
    for setting, values in {**SWEEP, **OTHERS}.items():
        for seed in range(options.seeds):
            model = trained(train, values, seed, options.epochs)
            rows.append({**common, "setting": setting, **values, "seed": seed, **judged(*model, held_out)})
            print(
                setting, {name: rows[-1][name] for name in ("seed", "reconstruction", "kl", "elbo", "iwae")}, flush=True
            )
    options.out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    draw(rows, options.picture)
    print(table(rows))


if __name__ == "__main__":
    main()

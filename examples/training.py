"""A plain PyTorch loop of one's own with fastvae's training loss, then fastvae for inference; leaves training.png.

Run as ``python examples/training.py``, after ``pip install 'fastvae-engine[sklearn,plot]'``.
"""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import fastvae
from fastvae_kernels import LinearSchedule, elbo_loss

LATENT, EPOCHS = 8, 40


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(64, 128), nn.ReLU())
        self.mean, self.logvar = nn.Linear(128, LATENT), nn.Linear(128, LATENT)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.hidden(x)
        return self.mean(h), self.logvar(h)


torch.manual_seed(0)
images = torch.tensor(load_digits().data, dtype=torch.float32) / 16
train, held_out = images[: len(images) * 4 // 5], images[len(images) * 4 // 5 :]
encoder, decoder = Encoder(), nn.Sequential(nn.Linear(LATENT, 128), nn.ReLU(), nn.Linear(128, 64))
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=2e-3)
beta = LinearSchedule(steps=10 * len(train) // 64)  # a warm-up of ten epochs
history, step = [], 0
for _ in range(EPOCHS):
    for batch in train[torch.randperm(len(train))].split(64):
        mean, logvar = encoder(batch)
        logits = decoder(mean + torch.exp(0.5 * logvar) * torch.randn_like(mean))
        found = elbo_loss(logits, batch, mean, logvar, likelihood="bernoulli", beta=beta(step))
        optimizer.zero_grad()
        found.loss.backward()
        optimizer.step()
        history.append((found.reconstruction.item(), found.kl.item()))
        step += 1

vae = fastvae.from_modules(encoder, decoder, likelihood="bernoulli", example_input=images[:8])  # verified against them
print(f"held out: ELBO {-vae.score(held_out, 'elbo', samples=16).mean():.2f} nats a digit")

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
for name, values in zip(("reconstruction", "KL"), zip(*history, strict=True), strict=True):
    left.plot(values, label=name)
left.set(xlabel="step", ylabel="nats")
left.legend()
samples = torch.as_tensor(vae.generate(64)).reshape(8, 8, 8, 8).permute(0, 2, 1, 3).reshape(64, 64)
right.imshow(samples, cmap="gray")
right.set_axis_off()
figure.savefig("training.png", dpi=110)

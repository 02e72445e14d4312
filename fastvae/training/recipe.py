"""How a model is trained: every setting of the loop, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; shares lie in [0, 1].

    Attributes:
        kl_weight: weight of the KL term: above 1 posteriors fill the prior better, below 1 samples are sharper.
        kl_warmup: epochs over which that weight rises from 0.
        decay: AdamW's decoupled weight decay of matrices and convolutions.
        average: share of the old weights in the running average that is kept, per step.
        masked_batches: share of batches whose encoder input has values replaced by the training mean.
        masked_values: most of a row's values replaced so; each row's share is uniform up to it.
        min_std: floor of a learned standard deviation, in training standard deviations of the feature.
    """

    epochs: int
    batch: int = 64
    learning_rate: float = 1e-3
    kl_weight: float = 1.0
    kl_warmup: int = 10
    decay: float = 1e-2
    average: float = 0.99
    masked_batches: float = 0.0
    masked_values: float = 0.7
    min_std: float = 0.1

    def scaled(self, epochs: int) -> Recipe:
        """This recipe over another number of epochs, its KL warm-up scaled alike."""
        return replace(self, epochs=epochs, kl_warmup=self.kl_warmup * epochs // self.epochs)

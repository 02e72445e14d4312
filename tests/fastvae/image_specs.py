"""Image autoencoders made in the test, of the layers that large ones have."""

from fastvae.layers import Activation, Attention, Conv2d, GroupNorm, Residual, Upsample
from fastvae.spec import FixedGaussian, GaussianHead, ModelSpec


def image_spec() -> ModelSpec:
    """A small image autoencoder with every layer of the large ones, for images of any size."""

    def block(name: str, channels: int) -> Residual:
        conv = Conv2d(f"{name}.c", channels, channels, (3, 3), padding=(1, 1))
        return Residual((GroupNorm(f"{name}.n", channels, 2), Activation("silu"), conv))

    head = GaussianHead("chunked", joint=(Conv2d("q", 4, 4, (1, 1)),), logvar_min=-30.0, logvar_max=20.0)
    encoder = (
        Conv2d("e.0", 3, 4, (3, 3), padding=(1, 1)),
        block("e.1", 4),
        Conv2d("e.2", 4, 4, (4, 4), (2, 2), (1, 1)),
    )
    attention = Residual((GroupNorm("d.n", 4, 2), Attention("d.a", 4)))
    decoder = (
        *(Conv2d("d.0", 2, 4, (3, 3), padding=(1, 1)), block("d.1", 4), attention, Upsample()),
        *(Conv2d("d.2", 4, 4, (3, 3), padding=(1, 1)), block("d.3", 4), Conv2d("d.4", 4, 3, (3, 3), padding=(1, 1))),
    )
    return ModelSpec((3, 8, 8), (2, 4, 4), encoder, head, decoder, FixedGaussian())

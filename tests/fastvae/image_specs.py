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


def wide_image_spec(channels: int = 32) -> ModelSpec:
    """A small image autoencoder of as many channels as 8-bit convolutions need, with norms in all their places."""

    def norm(name: str) -> tuple[GroupNorm, Activation]:
        return GroupNorm(name, channels, 4), Activation("silu")

    def conv(name: str, inputs: int = channels, outputs: int = channels) -> Conv2d:
        return Conv2d(name, inputs, outputs, (3, 3), padding=(1, 1))

    def block(name: str) -> Residual:
        return Residual(
            (*norm(f"{name}.n1"), conv(f"{name}.c1"), *norm(f"{name}.n2"), conv(f"{name}.c2")),
        )

    head = GaussianHead("chunked", joint=(Conv2d("q", channels, 4, (1, 1)),))
    encoder = (Conv2d("e.0", 3, channels, (4, 4), (2, 2), (1, 1)), block("e.1"), *norm("e.n"))
    decoder = (
        conv("d.0", 2),
        block("d.1"),
        Upsample(),
        conv("d.2"),
        block("d.3"),
        *norm("d.n"),
        conv("d.4", outputs=3),
    )
    return ModelSpec((3, 16, 16), (2, 8, 8), encoder, head, decoder, FixedGaussian())

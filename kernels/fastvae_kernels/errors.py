"""The one exception this package defines: an implementation that was asked for by name and cannot run."""

__all__ = ["UnavailableError"]


class UnavailableError(NotImplementedError):
    """The implementation named by `impl` is unknown, or cannot run on these arguments or this machine.

    The message names the value, the op and what is accepted. Nothing falls back silently.
    """

"""The tensors of a translated module by the names they will have."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastvae.formats.modules._values import Scaling
from fastvae.layers import Affine


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that does not depend on the module's input.

    ``source`` is the parameter or buffer it is, None for one that has been computed from those.
    """

    tensor: Tensor
    source: Tensor | None = None


class Weights:
    """Tensors in float64 under the name of ``root`` ("encoder" or "decoder") and, where they have one, their own.

    A layer whose tensors are just those of a submodule is called like that; any other one after the operator that
    uses them, and has its own copy.
    """

    def __init__(self, root: str, module: nn.Module) -> None:
        self.root = root
        named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
        self.state = {f"{root}.{name}": tensor for name, tensor in named}
        self.tensors: dict[str, Tensor] = {}

    def layer(self, module: str, operator: str, roles: dict[str, Constant]) -> str:
        """The name of a layer with these tensors, by role (``weight``, ``bias``, ...), which are kept.

        Args:
            module: full path of the module that uses them.
            operator: what names the layer in that module if nothing else does.
        """
        weight = roles.get("weight")
        owners = {name.rpartition(".")[0] for name, tensor in self.state.items() if weight and tensor is weight.source}
        # A layer used twice is first looked for where it has been found before.
        for name in sorted({module, *owners}, key=lambda n: (f"{n}.weight" not in self.tensors, n != module, n)):
            if all(c.source is not None and self.state.get(f"{name}.{r}") is c.source for r, c in roles.items()):
                break
        else:
            name = self.free_name(f"{module}.{operator}")
        self.tensors |= {f"{name}.{role}": constant.tensor.to(torch.float64) for role, constant in roles.items()}
        return name

    def free_name(self, name: str) -> str:
        """``name``, made longer until no tensor's name starts with it."""
        while any(used.startswith(f"{name}.") for used in (*self.state, *self.tensors)):
            name += "_"
        return name

    def settle(self, scaling: Scaling) -> Affine:
        """The layer of a scaling, whose tensors are kept."""
        self.tensors |= {f"{scaling.name}.{role}": getattr(scaling, role).contiguous() for role in ("scale", "shift")}
        return Affine(scaling.name, tuple(scaling.scale.shape))

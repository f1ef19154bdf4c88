"""The Dropout of Theorem L3: neurons are deactivated after the forward pass, and nothing is rescaled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from covergraph.errors import TrajectoryError
from covergraph.kinds import LISTED, NUMBER, require, shown

AFFINE: tuple[type[nn.Module], ...] = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.Flatten, nn.Unflatten, nn.Identity, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
)
SEQUENTIAL = nn.Sequential.forward


class Dropout(nn.Module):
    """f = W_d M_{d-1} S_{d-1} (… W_2 M_1 S_1 (W_1 x + b_1) + b_2 …) + b_d in train mode; in eval mode the network.

    S_l(x) is the activation pattern of the forward pass without dropout, M_l diagonal with independent Bernoulli
    entries that keep a neuron with probability 1 - p, one for each sample. With one hidden layer this is
    `nn.functional.dropout` without its factor 1/(1-p); with more, a dropped neuron does not change later patterns.

    Args: `network`, a chain of affine modules and ReLUs, the last perhaps a sigmoid, in (nested) nn.Sequential;
    `affine`, further types of modules that are affine in their input. Raises `TrajectoryError` for other modules.
    """

    def __init__(self, network: nn.Sequential, p: float = 0.5, affine: Sequence[type[nn.Module]] = ()) -> None:
        super().__init__()
        require("Dropout", {"p": NUMBER, "affine": LISTED}, p=p, affine=affine)
        if not isinstance(network, nn.Sequential):
            raise TrajectoryError(
                f"Dropout: the network is {shown(network)}, expected nn.Sequential, which applies its modules in order"
            )
        if not 0 <= p < 1:
            raise TrajectoryError(f"Dropout: p is {p}, expected 0 <= p < 1; 1/2 is what Theorem L3 speaks of")
        self.network = network
        self.p = p
        known, parts = (*AFFINE, *affine), list(in_order(network))
        own = [m for m in network.modules() if isinstance(m, nn.Sequential) and type(m).forward is not SEQUENTIAL]
        if own:
            raise TrajectoryError(
                f"Dropout: a {type(own[0]).__name__} has a forward() of its own, expected nn.Sequential, which applies "
                "its modules in order; pass these in a plain nn.Sequential"
            )
        for i, (name, part) in enumerate(parts):
            last_sigmoid = isinstance(part, nn.Sigmoid) and i == len(parts) - 1
            if not (isinstance(part, (nn.ReLU, *known)) or last_sigmoid):
                raise TrajectoryError(
                    f"Dropout: network.{name} is a {type(part).__name__}, expected a chain of affine modules and "
                    "ReLUs, the last perhaps a sigmoid; name further affine types in `affine`"
                )

    def extra_repr(self) -> str:
        return f"p={self.p}, after the forward pass, unscaled"

    def forward(self, x: Tensor) -> Tensor:
        """Output for x (batch, *shape); gradients flow through the pass with the masks."""
        if not self.training:
            return self.network(x)
        return masked_forward(self.network, x, None, 1 - self.p)


def masked_forward(network: nn.Sequential, x: Tensor, masks: Sequence[Tensor] | None, keep: float = 0.5) -> Tensor:
    """The network at x with neurons dropped after the forward pass.

    masks: for each ReLU (batch, *shape) of 0 and 1; None: drawn by torch's generator, 1 with probability `keep`.
    """
    given = None if masks is None else iter(masks)
    plain, dropped, same = x, x, True  # until the first ReLU both passes are one, so the first layer runs once
    for _, part in in_order(network):
        if isinstance(part, nn.ReLU):
            active = plain.detach() > 0
            mask = torch.rand_like(plain.detach()) < keep if given is None else next(given)
            plain, dropped, same = plain.detach().relu(), dropped * (active * mask), False
            continue
        dropped = part(dropped)
        if same:
            plain = dropped
        else:
            with torch.no_grad():
                plain = part(plain)
    return dropped


def in_order(network: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules of nested Sequentials in order, with dotted names; one that occurs twice runs twice."""
    for name, part in network._modules.items():  # named_children() leaves out what occurred before
        if isinstance(part, nn.Sequential):
            yield from in_order(part, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", part

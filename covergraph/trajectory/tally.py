"""What is counted between two steps, pass by pass, in one row of the buffers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from covergraph.trajectory.buffers import Buffers
from covergraph.trajectory.sight import Sight


@dataclass
class Seen:
    """Since the last step: the samples at the output and at the layer's input, the gradients of the bias, and Σ ∂ℓ/∂h.

    `versions`: of W and b in the forward passes that were differentiated, `sight`: W and b in one of them, `strayed`:
    whether they were others in another one. `written`: the numbers of the row that hold something.
    """

    samples: int = 0
    inner: int = 0
    gradients: int = 0
    versions: set[tuple[int, int]] = field(default_factory=set)
    sight: Sight | None = None
    strayed: Tensor | bool = False
    pulled: Tensor | None = None
    written: set[str] = field(default_factory=set)

    def strays(self, sight: Sight) -> Tensor | bool:
        """Whether W and b were others than these in any pass, on the device."""
        return self.strayed if self.sight is None else self.sight.differs(sight) | self.strayed


class Tally:
    """Sums over the backward passes of the step in progress, in row `row`, without synchronization.

    A pass is counted if it adds to the gradient of the bias: `begin` remembers, `end` keeps or undoes what the hooks
    have added since. `inverse`: 1 over the scale of the loss of the pass under way.
    """

    def __init__(self, buffers: Buffers) -> None:
        self.buffers, self.row = buffers, 0
        self.now, self.stale = Seen(), set[str]()
        self.inverse: Tensor | None = None
        self._before, self._numbers = Seen(), torch.empty_like(buffers.numbers[0])

    @property
    def lacks_pulls(self) -> bool:
        """∂ℓ/∂h was not made for each sample, as by backward(inputs=[b])."""
        return self.now.inner < self.now.samples

    def begin(self) -> None:
        """A backward pass begins."""
        now, self.inverse = self.now, None
        self._before = replace(now, versions=set(now.versions), written=set(now.written))
        if now.written:
            self._numbers.copy_(self.buffers.numbers[self.row])

    def end(self) -> None:
        """The pass is over: it is undone if it has added nothing to the gradient of the bias."""
        if self.now.gradients == self._before.gradients:
            self.stale |= self.now.written
            self.now = self._before
            if self.now.written:
                self.buffers.numbers[self.row].copy_(self._numbers)
        self._before = Seen()

    def take(self) -> Seen:
        """What was seen since the last time; numbers that are not of it become stale."""
        seen, self.now = self.now, Seen()
        self.stale |= seen.written
        return seen

    def finish(self) -> Seen:
        """At the end of a step: what was seen, with the rest of its row filled in."""
        slots, fresh = self.buffers.slots[self.row], self.now.written
        if self.lacks_pulls:
            self.stale |= {"pull", "pulls"}
            fresh -= {"pulls"}
        elif self.now.pulled is not None and self.now.inner > 1:  # of one sample it is in pulls
            torch.linalg.vector_norm(self.now.pulled, dtype=torch.float64, out=slots["pull"])
        if not self.now.gradients:
            self.buffers.gradient_rows[self.row].zero_()
        if self.now.samples != 1:
            self.set_input(None)
        for name in self.stale - fresh:
            slots[name].fill_(math.nan)
        seen = self.take()
        self.stale = set()
        return seen

    def add_output(self, gradient: Tensor, size: Tensor | None, sight: Sight) -> None:
        """∂ℓ/∂ŷ of a pass, whose layer had an input of this norm, and these W and b."""
        self.now.samples += len(gradient)
        self.now.versions.add(sight.versions)
        self.now.sight, self.now.strayed = sight, self.now.strays(sight)
        self._add_norms("epsilon", gradient)
        self.set_input(size)

    def add_pull(self, gradient: Tensor) -> None:
        """∂ℓ/∂h of a pass."""
        now = self.now
        now.inner += len(gradient)
        self._add_norms("pulls", gradient)
        pulled = self._unscaled(gradient.reshape(-1) if len(gradient) == 1 else gradient.sum(0).reshape(-1))
        now.pulled = pulled if now.pulled is None else now.pulled + pulled

    def add_gradient(self, gradient: Tensor) -> None:
        """∂ℓ/∂b of a pass."""
        row, gradient = self.buffers.gradient_rows[self.row], self._unscaled(gradient)
        if self.now.gradients:
            row.add_(gradient)
        else:
            row.copy_(gradient)
        self.now.gradients += 1

    def add_loss(self, loss: Tensor) -> None:
        """The loss of a pass."""
        self._add("loss", self._unscaled(loss))

    def set_input(self, size: Tensor | None) -> None:
        """‖h‖ of one sample; None: there is no such number."""
        if size is not None:
            self.buffers.slots[self.row]["input"].copy_(size)
            self.now.written.add("input")
        elif "input" in self.now.written:
            self.stale.add("input")
            self.now.written.discard("input")

    def _unscaled(self, value: Tensor) -> Tensor:
        return value if self.inverse is None else value * self.inverse.to(value.device)

    def _add_norms(self, name: str, gradient: Tensor) -> None:
        """Add the norm of each sample."""
        if len(gradient) > 1:
            rows = torch.linalg.vector_norm(gradient.reshape(len(gradient), -1), dim=1, dtype=torch.float64)
            self._add(name, self._unscaled(rows.sum()))
        elif name in self.now.written or self.inverse is not None:
            self._add(name, self._unscaled(torch.linalg.vector_norm(gradient, dtype=torch.float64)))
        else:
            torch.linalg.vector_norm(gradient, dtype=torch.float64, out=self.buffers.slots[self.row][name])
            self.now.written.add(name)

    def _add(self, name: str, value: Tensor) -> None:
        slot = self.buffers.slots[self.row][name]
        if name in self.now.written:
            slot.add_(value)
        else:
            slot.copy_(value)
            self.now.written.add(name)

"""Which entries of a model's state share memory, whatever their names."""

from __future__ import annotations

from torch import Tensor, nn


def shared_storage(model: nn.Module) -> dict[str, str]:
    """For every parameter and buffer whose memory overlaps that of an earlier one: the first one's name."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    spans = sorted((*_span(value), name) for name, value in named if value.numel())
    order = {name: i for i, (name, _) in enumerate(named)}
    ties: dict[str, str] = {}
    group: list[str] = []
    end = None
    for storage, start, stop, name in [*spans, (-1, 0, 0, "")]:
        if end is None or (storage, start) >= end or storage != end[0]:
            first = min(group, key=order.__getitem__, default="")
            ties |= {other: first for other in group if other != first}
            group, end = [], (storage, stop)
        group.append(name)
        end = max(end, (storage, stop))
    return ties


def _span(value: Tensor) -> tuple[int, int, int]:
    """Storage, first byte, byte after the last."""
    start = value.storage_offset() * value.element_size()
    extent = sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True)) + 1
    return value.untyped_storage().data_ptr(), int(start), int(start + extent * value.element_size())

"""Rules for fixed linear maps of one activation or several: reshaping, joining, pooling, doing nothing."""

from __future__ import annotations

from collections.abc import Sequence

from covergraph.graph.operations import AveragePool, Concatenate, Reshape
from covergraph.tracers.call import Call, Data, Step


def reshape(call: Call) -> Step | Data:
    """View, flatten, squeeze and the like: the batch stays in dim 0 (checked before), entries in order."""
    x = call.data("input")
    if x.dtype != call.dtype:
        raise call.refuse(f"reinterprets {x.dtype} as {call.dtype}", "keep one dtype")
    return x if x.shape == call.shape else Step(Reshape(), (x,))


def permute(call: Call) -> Step | Data:
    """permute(dims), if it only moves axes of length 1: then it is a reshape."""
    return _permuted(call, [int(d) for d in call.arguments["dims"]])


def transpose(call: Call) -> Step | Data:
    """transpose(dim0, dim1), if one of the axes has length 1 and no other axis lies between them."""
    order = list(range(len(call.shape) + 1))
    a, b = int(call.arguments["dim0"]), int(call.arguments["dim1"])
    order[a], order[b] = order[b], order[a]
    return _permuted(call, order)


def _permuted(call: Call, order: Sequence[int]) -> Step | Data:
    x = call.data("input")
    axes = [d % len(order) for d in order]
    if axes[0] != 0:
        raise call.mixes(f"moves the batch: the new order of the axes is {axes}", "keep the batch in dim 0")
    long = [d for d in axes[1:] if x.shape[d - 1] != 1]
    if long != sorted(long):
        raise call.refuse(f"permutes the axes of {x.shape}, not supported yet", "avoid the permutation")
    return reshape(call)


def concatenate(call: Call) -> Step | Data:
    """cat(tensors, dim) along an axis of the sample."""
    slots = tuple(call.as_data(value) for value in call.arguments["tensors"])
    axis = int(call.number("dim", 0)) % (len(call.shape) + 1)
    if axis == 0:
        raise call.mixes("joins along dim 0, which is the batch", "join along another dim")
    if any(len(x.shape) != len(call.shape) for x in slots):
        raise call.refuse("joins tensors of different rank", "give all of them one rank")
    return slots[0] if len(slots) == 1 else Step(Concatenate(axis - 1), slots)


def average_pool(call: Call) -> Step:
    """F.avg_pool{1,2,3}d; the axes before the pooled ones are treated separately."""
    x, count = call.data("input"), int(call.name[-2])
    if call.arguments.get("divisor_override") is not None:
        raise call.refuse("has a divisor_override", "multiply by a number instead")
    if len(x.shape) < count:
        raise call.mixes("pools over dim 0, which is the batch", "add a channel dimension")
    kernel = call.sizes("kernel_size", count, 1)
    given = call.arguments.get("stride")
    stride = call.sizes("stride", count, 1) if given not in (None, [], ()) else kernel
    padding = call.sizes("padding", count, 0)
    ceil_mode = bool(call.arguments.get("ceil_mode", False))
    counts = bool(call.arguments.get("count_include_pad", True))
    return Step(AveragePool(kernel, stride, padding, ceil_mode, counts), (x,))


def adaptive_average_pool(call: Call) -> Step:
    """F.adaptive_avg_pool{1,2,3}d to sizes that divide the input's: windows without overlap."""
    x, count = call.data("input"), int(call.name[-2])
    if len(x.shape) < count:
        raise call.mixes("pools over dim 0, which is the batch", "add a channel dimension")
    before, after = x.shape[-count:], call.shape[-count:]
    if any(b % a for b, a in zip(before, after, strict=True)):
        raise call.refuse(f"pools {before} to {after}, windows overlapping", "use sizes that divide evenly")
    kernel = tuple(b // a for b, a in zip(before, after, strict=True))
    return Step(AveragePool(kernel, kernel, (0,) * count), (x,))


def unchanged(call: Call) -> Data:
    """contiguous, clone, a conversion to the same dtype: no node at all."""
    x = call.data("input")
    if (x.shape, x.dtype) != (call.shape, call.dtype):
        raise call.refuse(
            f"turns {x.dtype} {x.shape} into {call.dtype} {call.shape}", "keep one shape and one dtype"
        )
    return x


def slice_(call: Call) -> Data:
    """x[a:b] that keeps everything, as torch.export writes the colons of x[:, ...]."""
    x = call.data("input")
    if x.shape != call.shape:
        raise call.refuse("selects a part of the entries, not supported yet", "use a linear layer instead")
    return x


def dropout(call: Call) -> Data:
    """Dropout in eval mode, which does nothing; in train mode it is random."""
    training = call.arguments.get("training", call.arguments.get("train", True))
    if training:
        raise call.mixes("draws random numbers: it is in train mode", "pass training=self.training")
    return unchanged(call)


def batch_norm(call: Call) -> Data:
    """BatchNorm: in train mode it mixes samples; in eval mode its affine map has no rule yet."""
    batch_statistics = call.arguments.get("training") or call.arguments.get("running_mean") is None
    if batch_statistics:
        raise call.mixes(
            "normalizes by the statistics of the batch", "use running statistics (training=False) or fold it"
        )
    raise call.refuse(
        "in eval mode has no rule yet", "fold it into the layer before (torch.nn.utils.fuse_conv_bn_eval)"
    )

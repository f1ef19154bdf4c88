"""The one table from torch's operations to ours; its keys are the canonical names of `forms`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from covergraph.graph.function_rows import UNARY
from covergraph.tracers import arithmetic, elementwise, layers, layout, norms, pooling, recurrent, reductions
from covergraph.tracers.call import Call

Rule = Callable[[Call], Any]


def dropout(call: Call) -> Any:
    """Dropout in eval mode, which does nothing; in train mode it is random."""
    if call.given("training", True) and call.given("p", 1) != 0:
        raise call.mixes("draws random numbers: it is in train mode", "pass training=self.training")
    return call.data("input")


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(UNARY, elementwise.unary),
    "gelu": elementwise.gelu,
    "softplus": elementwise.softplus,
    **dict.fromkeys(("elu", "selu", "celu"), elementwise.elu),
    "leaky_relu": elementwise.leaky_relu,
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max", "clip", "hardtanh"), elementwise.clamp),
    "pow": elementwise.power,
    **dict.fromkeys(("softshrink", "hardshrink"), elementwise.shrink),
    "threshold": elementwise.threshold,
    "linear": layers.linear,
    "addmm": layers.addmm,
    "baddbmm": layers.baddbmm,
    **dict.fromkeys(("mm", "bmm", "matmul", "mv", "dot"), layers.matmul),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), layers.convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), layers.convolution),
    "bilinear": layers.bilinear,
    "embedding": layers.embedding,
    "_embedding_bag": layers.embedding_bag,
    **dict.fromkeys(("prelu", "_prelu_kernel"), layers.prelu),
    "batch_norm": layers.batch_norm,
    "_native_batch_norm_legit_no_training": layers.batch_norm_tuple,
    **dict.fromkeys(("_native_batch_norm_legit", "native_batch_norm"), layers.batch_norm_tuple),
    "add": arithmetic.add,
    **dict.fromkeys(("sub", "subtract"), arithmetic.subtract),
    "rsub": arithmetic.rsub,
    **dict.fromkeys(("mul", "multiply"), arithmetic.multiply),
    **dict.fromkeys(("div", "divide", "true_divide"), arithmetic.divide),
    "addcmul": arithmetic.addcmul,
    "where": arithmetic.where,
    "masked_fill": arithmetic.masked_fill,
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "squeeze", "unsqueeze", "flatten", "unflatten"), layout.view),
    **dict.fromkeys(("clone", "contiguous", "alias", "detach", "lift_fresh_copy", "to", "_to_copy"), layout.unchanged),
    "permute": layout.permute,
    **dict.fromkeys(("transpose", "t", "swapaxes", "mT"), layout.transpose),
    "expand": layout.expand,
    "repeat": layout.repeat,
    "slice": layout.slice_,
    "select": layout.select,
    "narrow": layout.narrow,
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), layout.split),
    "unbind": layout.unbind,
    "flip": layout.flip,
    "index_select": layout.index_select,
    **dict.fromkeys(
        ("index", "gather", "unfold", "im2col", "as_strided", "diagonal", "roll", "tril", "triu", "pixel_shuffle"),
        layout.by_positions,
    ),
    **dict.fromkeys(
        ("pixel_unshuffle", "channel_shuffle", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d"),
        layout.by_positions,
    ),
    **dict.fromkeys(("replication_pad1d", "replication_pad2d", "replication_pad3d"), layout.by_positions),
    "constant_pad_nd": layout.pad,
    **dict.fromkeys(("cat", "concat", "concatenate"), layout.concatenate),
    "stack": layout.stack,
    "copy": layout.copy,
    "slice_scatter": layout.slice_scatter,
    "select_scatter": layout.select_scatter,
    **dict.fromkeys(("sum", "mean"), reductions.reduction),
    **dict.fromkeys(("amax", "max"), reductions.maximum),
    **dict.fromkeys(("amin", "min"), reductions.minimum),
    **dict.fromkeys(("linalg_vector_norm", "norm"), reductions.vector_norm),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), pooling.average_pool),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), pooling.max_pool),
    **dict.fromkeys(("max_pool2d_with_indices", "max_pool3d_with_indices"), pooling.max_pool),
    **dict.fromkeys(
        ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d"),
        pooling.adaptive_average_pool,
    ),
    "_adaptive_avg_pool3d": pooling.adaptive_average_pool,
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"), pooling.adaptive_max_pool),
    **dict.fromkeys(
        ("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact2d"),
        pooling.upsample,
    ),
    **dict.fromkeys(("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"), pooling.upsample),
    "upsample_bicubic2d": pooling.upsample,
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax"), norms.softmax),
    **dict.fromkeys(("layer_norm", "native_layer_norm"), norms.layer_norm),
    **dict.fromkeys(("group_norm", "native_group_norm"), norms.group_norm),
    "rms_norm": norms.rms_norm,
    "instance_norm": norms.instance_norm,
    "scaled_dot_product_attention": norms.attention,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), recurrent.recurrent),
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), dropout),
}

OF_INTEGERS = frozenset(name for name, rule in RULES.items() if rule.__module__ == layout.__name__) | {"embedding"}
"""Operations whose rules hold for results that are integers or booleans, too; others are calls there."""

CONSTANT_SHAPE = frozenset(
    ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "fill", "empty_like", "new_empty")
)
"""Operations whose result is known from the shape of the argument alone."""

"""The one table from torch's operations to ours; its keys are the canonical names of `forms`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from covergraph.tracers import arithmetic, layers, layout
from covergraph.tracers.call import Call, Data, State, Step

Rule = Callable[[Call], Step | Data]

RULES: Mapping[str, Rule] = {
    "linear": layers.linear,
    "addmm": layers.addmm,
    **dict.fromkeys(("mm", "matmul"), layers.matmul),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), layers.convolution),
    **dict.fromkeys(("tanh", "sigmoid", "silu", "sin", "cos"), arithmetic.elementwise),
    **dict.fromkeys(("neg", "negative"), arithmetic.negate),
    "gelu": arithmetic.gelu,
    "softplus": arithmetic.softplus,
    "elu": arithmetic.elu,
    "add": arithmetic.add,
    **dict.fromkeys(("sub", "subtract"), arithmetic.subtract),
    "rsub": arithmetic.rsub,
    **dict.fromkeys(("mul", "multiply"), arithmetic.multiply),
    **dict.fromkeys(("div", "divide", "true_divide"), arithmetic.divide),
    **dict.fromkeys(("cat", "concat", "concatenate"), layout.concatenate),
    **dict.fromkeys(("view", "reshape", "flatten", "ravel", "_unsafe_view", "view_as"), layout.reshape),
    **dict.fromkeys(("reshape_as", "unflatten", "squeeze", "unsqueeze"), layout.reshape),
    "slice": layout.slice_,
    "permute": layout.permute,
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), layout.transpose),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), layout.average_pool),
    **dict.fromkeys(
        ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), layout.adaptive_average_pool
    ),
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), layout.dropout),
    **dict.fromkeys(("dropout1d", "dropout2d", "dropout3d"), layout.dropout),
    **dict.fromkeys(("contiguous", "clone", "alias", "positive"), layout.unchanged),
    **dict.fromkeys(("to", "_to_copy", "type_as", "float", "double", "expand"), layout.unchanged),
    **dict.fromkeys(("batch_norm", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d"), layout.batch_norm),
}

STATE_RULES: Mapping[str, Callable[[State], State]] = dict.fromkeys(
    ("t", "T", "mT", "numpy_T", "transpose"), layers.transpose
)

REMEDIES: Mapping[str, str] = {
    **dict.fromkeys(
        ("relu", "leaky_relu", "hardtanh", "relu6", "abs", "ReLU", "LeakyReLU"), "use nn.SiLU or nn.GELU"
    ),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d", "MaxPool2d"), "use an average pool"),
    **dict.fromkeys(("stack",), "use unsqueeze and torch.cat"),
    **dict.fromkeys(("pow", "square"), "write a square as x * x"),
    **dict.fromkeys(("detach", "detach_"), "remove it: a bound concerns the whole function"),
    **dict.fromkeys(("pad",), "use the zero padding of the convolution"),
}

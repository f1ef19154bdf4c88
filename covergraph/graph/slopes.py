"""Derivatives of common functions in forms that do not cancel where the function saturates.

1 - tanh(t)^2 is 0 in double precision from |t| = 19.1 on, and sigma(t) (1 - sigma(t)) from t = 36.8 on, but the
derivatives are not: a large weight behind them makes an upper end of 0 wrong. The forms here do not cancel, on the
whole line and down to underflow, but where phi' crosses 0 (gelu, silu, mish, sinc); autograd differentiates them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def tanh(x: Tensor) -> Tensor:
    """sech^2(t) = 4 e / (1 + e)^2 with e = exp(-2|t|)."""
    e = torch.exp(-2 * x.abs())
    return 4 * e / (1 + e).square()


def sigmoid(x: Tensor) -> Tensor:
    """e / (1 + e)^2 with e = exp(-|t|)."""
    e = torch.exp(-x.abs())
    return e / (1 + e).square()


def logsigmoid(x: Tensor) -> Tensor:
    """sigma(-t)."""
    return torch.sigmoid(-x)


def softplus(x: Tensor, beta: float = 1.0) -> Tensor:
    """sigma(beta t); torch's own is 1 above its threshold."""
    return torch.sigmoid(beta * x)


def tanhshrink(x: Tensor) -> Tensor:
    """tanh^2(t)."""
    return torch.tanh(x).square()


def softsign(x: Tensor) -> Tensor:
    """1 / (1 + |t|)^2."""
    return 1 / (1 + x.abs()).square()


def gelu(x: Tensor) -> Tensor:
    """Phi(t) + t g(t), with Phi by erfc."""
    return torch.erfc(-x / math.sqrt(2)) / 2 + x * torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)


def gelu_tanh(x: Tensor) -> Tensor:
    """sigma(2u) + 2 t u' sigma(2u) sigma(-2u), with u = (2/pi)^(1/2) (t + 0.044715 t^3)."""
    u = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x.square())
    return torch.sigmoid(2 * u) + 2 * torch.nan_to_num(x * slope * sigmoid(2 * u))


def silu(x: Tensor) -> Tensor:
    """sigma(t) (1 + t sigma(-t))."""
    return torch.sigmoid(x) + x * sigmoid(x)


def mish(x: Tensor) -> Tensor:
    """tanh(p) + t sech^2(p) sigma(t), with p = softplus(t)."""
    p = F.softplus(x, threshold=60.0)
    return torch.tanh(p) + x * tanh(p) * torch.sigmoid(x)


def elu(x: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Tensor:
    """scale for t > 0, else scale alpha k exp(k t), k the input scale; torch rounds k to single precision."""
    falling = scale * alpha * input_scale * torch.exp(input_scale * x.clamp(max=0))
    return torch.where(x > 0, scale, falling)


def expm1(x: Tensor) -> Tensor:
    """exp(t); torch's own is (exp(t) - 1) + 1."""
    return torch.exp(x)


def erf(x: Tensor) -> Tensor:
    """2 exp(-t^2) / pi^(1/2), with t^2 = r^2 + (t - r)(t + r), r rounded so that r^2 is exact."""
    r = torch.round(x.clamp(-30, 30) * 2**20) / 2**20
    return torch.exp(-r.square()) * torch.exp(-(x - r) * (x + r)) * (2 / math.sqrt(math.pi))


def atan(x: Tensor) -> Tensor:
    """1 / (1 + t^2)."""
    return 1 / (1 + x.square())


def asinh(x: Tensor) -> Tensor:
    """(1 + t^2)^(-1/2); t^2 may leave the range of the numbers."""
    return 1 / torch.hypot(x, torch.ones_like(x))


def asin(x: Tensor) -> Tensor:
    """((1 - t) (1 + t))^(-1/2): near the ends 1 - t^2 would cancel."""
    return 1 / ((1 - x) * (1 + x)).sqrt()


def acos(x: Tensor) -> Tensor:
    """The negative of asin's."""
    return -asin(x)


def atanh(x: Tensor) -> Tensor:
    """1 / ((1 - t) (1 + t))."""
    return 1 / ((1 - x) * (1 + x))


def acosh(x: Tensor) -> Tensor:
    """|t - 1|^(-1/2) |t + 1|^(-1/2), two roots as the product may overflow; also for t < -1, as torch has it."""
    return 1 / torch.where(x.abs() < 1, torch.nan, (x - 1).abs().sqrt() * (x + 1).abs().sqrt())


def sinc(x: Tensor) -> Tensor:
    """(cos(pi t) - sin(pi t) / (pi t)) / t; near 0 by its series, whose next term is below 2^-53 of the first.

    The remainder of t by 2 is exact: pi t is rounded, which beyond t = 2^53 says nothing of its cosine.
    """
    y = math.pi * x
    near = y.abs() < 0.3
    far, turned = torch.where(near, torch.ones_like(x), x), math.pi * torch.fmod(x, 2)
    square = y.square()
    series = 0.0
    for k in range(8, 0, -1):  # the derivative of sum (-1)^k y^(2k) / (2k + 1)!
        series = series * square + (-1) ** k * 2 * k / math.factorial(2 * k + 1)
    beyond = (torch.cos(turned) - torch.sin(turned) / (math.pi * far)) / far
    return torch.where(near, math.pi * y * series, beyond)

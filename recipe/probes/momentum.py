"""Measure momentum after the loss has become flat (arXiv:2601.05002, propositions 3 and 7).

After T - 1 updates with a gradient, further ones at which every token is past its clip bound have
the gradient 0, but AdamW still moves: m_{T+k} = beta1^(k+1) m_{T-1} and v likewise, so

    C_{T,k} = ||update_{T+k}|| / ||update_{T-1}||
            = beta1^(k+1) (1 - beta1^(T-1)) / (1 - beta1^(T+k))
              * sqrt( (1 - beta2^(T+k)) / (beta2^(k+1) (1 - beta2^(T-1))) )
           -> (beta1 / sqrt(beta2))^(k+1)                                      for large T

Without eps this holds for each parameter, so the directions are all the same. Axes: `_N` responses,
`_K` flat updates.
"""

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from recipe.base.errors import UserError
from recipe.base.tables import markdown_table
from recipe.maths.rules import RULES
from recipe.probes.stage import NO_CLIP, Stage, columns
from recipe.sampling.groups import SampledGroups

NUM_SAMPLED, NUM_GROUPS = 12, 8
# T - 1 updates with a gradient, then k = 0..8 without.
T, NUM_FLAT = 9, 9
# The last without momentum, as a control.
BETAS = ((0.9, 0.95), (0.9, 0.999), (0.0, 0.95))
LR = 2e-5
# So far below sqrt(v_hat) of what moves that the closed form, which is without, is to be seen.
EPS = 1e-12
CLIP_LOW, CLIP_HIGH = 0.2, 0.28
# How far each token's ratio is past its bound at first: further than anything here moves it back.
MARGIN = 0.3


def finite_T(beta1: float, beta2: float, k: int) -> float:
    """Return C_{T,k} for a fixed `T`."""
    momentum = beta1 ** (k + 1) * (1 - beta1 ** (T - 1)) / (1 - beta1 ** (T + k))
    scale = (1 - beta2 ** (T + k)) / (beta2 ** (k + 1) * (1 - beta2 ** (T - 1)))
    return momentum * scale**0.5


def large_T(beta1: float, beta2: float, k: int) -> float:
    """Return C_{T,k} in the limit of large T."""
    return (beta1 / beta2**0.5) ** (k + 1)


def past_bound(log_prob_N: list[Tensor], advantage_N: Tensor) -> list[Tensor]:
    """Return each token's old_log_prob that puts its ratio `MARGIN` past its sign's bound."""
    ratio_N = torch.where(advantage_N > 0, 1 + CLIP_HIGH + MARGIN, 1 - CLIP_LOW - MARGIN)
    return [
        log_prob - ratio.log().float() for log_prob, ratio in zip(log_prob_N, ratio_N, strict=True)
    ]


def measure(stage: Stage) -> dict[str, Any]:
    """Measure the size of the flat updates and the clipping excess, for each pair of betas.

    Raises:
        UserError: the sampled responses are not what it needs.
    """
    responses = stage.mixed_groups(NUM_SAMPLED, NUM_GROUPS)
    found = []
    for betas in BETAS:
        found.append({"betas": betas, **of_betas(stage, responses, *betas)})
        stage.say(f"measured betas {betas}")
    gaps = [
        abs(measured / predicted - 1) if predicted else abs(measured)
        for one in found
        for measured, predicted in zip(one["measured"], one["predicted"], strict=True)
    ]
    return {"T": T, "arms": found, "largest_deviation": max(gaps)}


def of_betas(
    stage: Stage, responses: SampledGroups, beta1: float, beta2: float
) -> dict[str, list[float]]:
    """Make T - 1 updates on the responses, then flat updates on the same responses.

    Raises:
        UserError: the loss was not flat.
    """
    engine = stage.engine(
        optim={
            "lr": LR,
            "betas": [beta1, beta2],
            "weight_decay": 0.0,
            "clip_grad": NO_CLIP,
            "override_optimizer_config": {"eps": EPS},
        },
        clip_ratio_low=CLIP_LOW,
        clip_ratio_high=CLIP_HIGH,
    )
    advantage_N = responses.advantage_N
    weight_N = RULES["balanced"](responses.length_N, advantage_N, responses.group_N)
    data = columns(responses, advantage_N, engine.log_probs(responses))
    last = [engine.update(data, weight_N)["update_norm"] for _ in range(T - 1)][-1]
    flat = columns(responses, advantage_N, past_bound(engine.log_probs(responses), advantage_N))
    metrics_K = [engine.update(flat, weight_N) for _ in range(NUM_FLAT)]
    felt = [k for k, metrics in enumerate(metrics_K) if metrics["grad_norm"] != 0]
    if felt:
        raise UserError(
            f"at k = {felt} some token came back within its clip bound, so the loss was not flat, "
            f"as it has to be. Try another --seed."
        )
    excess_K = [metrics["actor/ratio_clip_excess"] for metrics in metrics_K]
    return {
        "measured": [metrics["update_norm"] / last for metrics in metrics_K],
        "predicted": [finite_T(beta1, beta2, k) for k in range(NUM_FLAT)],
        "limit": [large_T(beta1, beta2, k) for k in range(NUM_FLAT)],
        "excess": excess_K,
        "excess_predicted": first_order_excess(excess_K, beta1, beta2),
    }


def first_order_excess(excess_K: list[float], beta1: float, beta2: float) -> list[float]:
    """Return the excess at k if it grows with the distance moved, from its values at k = 0 and 1.

    All flat updates have one direction, so E_k = E_0 + (E_1 - E_0) * sum_{j<k} C_{T,j} / C_{T,0}.
    """
    way_K = [sum(finite_T(beta1, beta2, j) for j in range(k)) for k in range(NUM_FLAT)]
    rise = (excess_K[1] - excess_K[0]) / way_K[1] if way_K[1] else 0.0
    return [excess_K[0] + rise * way for way in way_K]


def report(result: dict[str, Any]) -> list[str]:
    """Report C by k beside both closed forms, and the excess."""
    *moved, control = result["arms"]
    head = ("betas", "k", "C, finite T", "C, measured", "C, large T", "excess", "first order")
    rows = [
        (
            "{:g}, {:g}".format(*one["betas"]),
            str(k),
            *(f"{one[key][k]:.6f}" for key in ("predicted", "measured", "limit")),
            *(f"{one[key][k]:.5f}" for key in ("excess", "excess_predicted")),
        )
        for one in moved
        for k in range(NUM_FLAT)
    ]
    return [
        f"The size of updates whose gradient is exactly 0, every token being past its clip bound, "
        f"over that of the last of {result['T'] - 1} updates before; and how far, before each, the "
        f"ratio of those tokens is past the bound in the mean (`actor/clip_excess`).",
        "",
        *markdown_table(head, rows),
        "",
        f"verl's gradient norm is 0 at every k. Without momentum (beta1 = 0) the largest C is "
        f"{max(control['measured']):g}, and the excess moves by "
        f"{max(control['excess']) - min(control['excess']):g}. Weight decay 0, learning rate "
        f"{LR:g}, constant. The closed form is without eps, so eps is {EPS:g}. First order "
        f"continues the excess from its first rise by the length of the way.",
        "",
        f"Largest deviation of C, relative: {result['largest_deviation']:.1e}.",
    ]


def draw(figure: Figure, result: dict[str, Any]) -> None:
    """Draw C and the excess over k."""
    left, right = figure.subplots(1, 2)
    for number, one in enumerate(result["arms"]):
        color, label = f"C{number}", "betas {:g}, {:g}".format(*one["betas"])
        left.plot(one["predicted"], color=color)
        left.plot(one["limit"], ":", color=color)
        points = {"marker": "o", "linestyle": "", "fillstyle": "none", "label": label}
        left.plot(one["measured"], color=color, **points)
        for key, style in (("excess_predicted", {}), ("excess", points)):
            right.plot([1e3 * (excess - one[key][0]) for excess in one[key]], color=color, **style)
    left.plot([], [], color="gray", label=f"closed form, T = {result['T']}")
    left.plot([], [], ":", color="gray", label="closed form, large T")
    right.plot([], [], color="gray", label="first order in the way")
    left.set_ylabel("size of the update, C = ||update T+k|| / ||update T-1||")
    right.set_ylabel("rise of the ratio's mean excess over its bound (1/1000)")
    for axes in (left, right):
        axes.set_xlabel("k, updates since the loss became flat")
        axes.grid(alpha=0.3)
        axes.legend()

"""Measure AdamW under a global reward factor (arXiv:2601.05002, propositions 2, 5 and 6).

Rewards times phi give gradients times phi, m times phi and v times phi^2, so AdamW's update is
that of the unscaled rewards with eps / phi:

    update(phi * g, eps) = update(g, eps / phi)

which is hardly another one where eps << sqrt(v_hat). What changes the gradient after the reward
scaled it, a clip that hits some steps or a KL loss, breaks this. Axes: `_S` updates, `_X` all
parameters in a row.
"""

from collections.abc import Iterable, Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from tensordict import TensorDict
from torch import Tensor

from recipe.base.tables import markdown_table
from recipe.maths.rules import RULES
from recipe.maths.within import centred_within
from recipe.probes.stage import NO_CLIP, Engine, Stage, columns
from recipe.sampling.groups import SampledGroups

PHI = 10.0
NUM_UPDATES, GROUPS_PER_UPDATE, NUM_SAMPLED = 8, 4, 48
BETAS = (0.9, 0.999)
# So small that parameters stay where they are, and all settings see nearly the same gradients.
LR = 1e-7
# The reference of the KL loss is the model after one update a mini-batch at this rate.
REFERENCE_LR = 1e-3


class Setting(NamedTuple):
    """Hold what the updates at both reward scales have in common."""

    name: str
    eps: float = 1e-8
    clip: float = NO_CLIP
    kl: bool = False


class Step(NamedTuple):
    """Hold one update of AdamW."""

    update_X: Tensor
    scale_X: Tensor
    """sqrt(v_hat)."""


class MiniBatch(NamedTuple):
    """Hold the fixed responses of one update."""

    responses: SampledGroups
    weight_N: Tensor
    old_N: list[Tensor]
    reference_N: list[Tensor]

    def data(self, phi: float) -> TensorDict:
        """Return verl's columns with rewards times phi."""
        advantage_N = centred_within(phi * self.responses.score_N, self.responses.group_N)
        data = columns(self.responses, advantage_N, self.old_N)
        data["ref_log_prob"] = torch.nested.as_nested_tensor(self.reference_N, layout=torch.jagged)
        return data


def replay(gradient_S: Iterable[Tensor], eps: float, clip: float = NO_CLIP) -> Iterator[Step]:
    """Replay AdamW (arXiv:1711.05101) in float64, without weight decay, after clipping by norm."""
    beta1, beta2 = BETAS
    m_X, v_X = 0.0, 0.0
    for step, gradient_X in enumerate(gradient_S, start=1):
        gradient_X = gradient_X.double()
        gradient_X = gradient_X * min(1.0, clip / (gradient_X.norm().item() + 1e-6))
        m_X = beta1 * m_X + (1 - beta1) * gradient_X
        v_X = beta2 * v_X + (1 - beta2) * gradient_X**2
        scale_X = (v_X / (1 - beta2**step)).sqrt()
        yield Step(-LR * m_X / (1 - beta1**step) / (scale_X + eps), scale_X)


def first_order(step: Step, eps: float) -> float:
    """Return the relative change of an update when eps becomes eps / phi, to first order.

    Of each parameter it is eps * (1 - 1/phi) / (sqrt(v_hat) + eps).
    """
    change_X = step.update_X * eps * (1 - 1 / PHI) / (step.scale_X + eps)
    return (change_X.norm() / step.update_X.norm()).item()


def distance(others_S: Iterable[Tensor], updates_S: Iterable[Tensor]) -> list[float]:
    """Return ||other - update|| / ||update|| of each step."""
    return [
        ((other_X - update_X).norm() / update_X.norm()).item()
        for other_X, update_X in zip(others_S, updates_S, strict=True)
    ]


def settings(norm_S: Sequence[float]) -> list[Setting]:
    """Return the settings; their clips come from the gradient norms at rewards times 1."""
    return [
        Setting("plain"),
        Setting("eps 1e-5", eps=1e-5),
        Setting("every step clipped", clip=min(norm_S) / 2),
        Setting("some steps clipped", clip=median(norm_S)),
        Setting("clipped only if scaled", clip=2 * max(norm_S)),
        Setting("KL loss", kl=True),
    ]


def measure(stage: Stage) -> dict[str, Any]:
    """Measure the updates at both reward scales in every setting, beside the replay's."""
    batches = mini_batches(stage)
    policy_S, _ = scaled_updates(stage, Setting("plain"), batches, 1)
    kl_S, _ = scaled_updates(stage, Setting("KL loss", kl=True), batches, 0)
    norm_S = [gradient_X.norm().item() for gradient_X in policy_S]
    found = {}
    for setting in settings(norm_S):
        (_, update_S), (_, scaled_S) = (
            scaled_updates(stage, setting, batches, phi) for phi in (1, PHI)
        )
        replayed_S, scaled_replay_S = (
            list(replay(raw_gradients(setting, phi, policy_S, kl_S), setting.eps, setting.clip))
            for phi in (1, PHI)
        )
        found[setting.name] = {
            "eps": setting.eps,
            "clip": setting.clip,
            "clipped": [sum(phi * norm > setting.clip for norm in norm_S) for phi in (1, PHI)],
            "measured": distance(scaled_S, update_S),
            "predicted": distance(
                (step.update_X for step in scaled_replay_S), (s.update_X for s in replayed_S)
            ),
        }
        if setting.clip == NO_CLIP and not setting.kl:
            _, divided_S = scaled_updates(
                stage, setting._replace(eps=setting.eps / PHI), batches, 1
            )
            found[setting.name] |= {
                "first_order": [first_order(step, setting.eps) for step in replayed_S],
                "eps_divided": distance(scaled_S, divided_S),
            }
        stage.say(f"measured: {setting.name}")
    gaps = [
        abs(measured - predicted)
        for one in found.values()
        for measured, predicted in zip(one["measured"], one["predicted"], strict=True)
    ]
    return {"gradient_norm": norm_S, "settings": found, "largest_deviation": max(gaps)}


def mini_batches(stage: Stage) -> list[MiniBatch]:
    """Return mixed groups for each update, and a reference model that differs from the model."""
    responses = stage.mixed_groups(NUM_SAMPLED, NUM_UPDATES * GROUPS_PER_UPDATE)
    parts = [
        responses.of(range(begin, begin + GROUPS_PER_UPDATE))
        for begin in range(0, NUM_UPDATES * GROUPS_PER_UPDATE, GROUPS_PER_UPDATE)
    ]
    weight = [RULES["balanced"](p.length_N, p.advantage_N, p.group_N) for p in parts]
    engine = stage.engine(optim={"lr": REFERENCE_LR, "clip_grad": NO_CLIP})
    old = [engine.log_probs(part) for part in parts]
    for part, weight_N, old_N in zip(parts, weight, old, strict=True):
        engine.update(columns(part, part.advantage_N, old_N), weight_N)
    reference = [engine.log_probs(part) for part in parts]
    stage.say("made the reference of the KL loss")
    return [MiniBatch(*parts) for parts in zip(parts, weight, old, reference, strict=True)]


def scaled_updates(
    stage: Stage, setting: Setting, batches: Iterable[MiniBatch], phi: float
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the gradient and update of each step with rewards times phi, from the first model."""
    optim = {
        "lr": LR,
        "betas": list(BETAS),
        "weight_decay": 0.0,
        "clip_grad": setting.clip,
        "override_optimizer_config": {"eps": setting.eps},
    }
    engine: Engine = stage.engine(optim=optim, use_kl_loss=setting.kl, kl_loss_coef=1.0)
    gradient_S, update_S = [], []
    for batch in batches:
        gradient_S.append(engine.gradient(batch.data(phi), batch.weight_N))
        update_S.append(engine.change())
    return gradient_S, update_S


def raw_gradients(
    setting: Setting, phi: float, policy_S: Iterable[Tensor], kl_S: Iterable[Tensor]
) -> Iterator[Tensor]:
    """Yield gradients before clipping with rewards times phi; the KL loss is not scaled."""
    for policy_X, kl_X in zip(policy_S, kl_S, strict=True):
        yield phi * policy_X + kl_X if setting.kl else phi * policy_X


def report(result: dict[str, Any]) -> list[str]:
    """Report the distance of the updates beside the prediction."""
    rows = []
    for name, found in result["settings"].items():
        gap = max(abs(x - y) for x, y in zip(found["measured"], found["predicted"], strict=True))
        clipped = "{}, {}".format(*found["clipped"]) if found["clip"] < NO_CLIP else "-"
        rows.append(
            (
                name,
                clipped,
                *(
                    f"{found[key][-1]:.2e}" if key in found else "-"
                    for key in ("predicted", "measured", "first_order", "eps_divided")
                ),
                f"{gap:.1e}",
            )
        )
    head = (
        "setting",
        "clipped x1, x10",
        "predicted",
        "measured",
        "first order",
        "eps / 10",
        "gap",
    )
    return [
        f"The distance of AdamW's update with rewards times {PHI:g} from that with rewards times "
        f"1, ||D10 - D1|| / ||D1||, at the last of {NUM_UPDATES} updates on fixed responses, and "
        f"how many of them were clipped. The prediction is AdamW in float64 on the gradients "
        f"recorded at rewards times 1, scaled and clipped; the KL loss's, recorded apart, is not "
        f"scaled.",
        "",
        *markdown_table(head, rows),
        "",
        f"First order takes a change of eps (1 - 1/{PHI:g}) / (sqrt(v_hat) + eps) of each "
        f"parameter's update. `eps / 10` is the distance from rewards times 1 with that eps, which "
        f"the identity says is 0. Gap is the largest difference of measured and predicted over the "
        f"updates. Learning rate {LR:g}, so small that both scales see nearly the same gradients; "
        f"updates are read from AdamW's state; weight decay 0.",
        "",
        f"Largest deviation: {result['largest_deviation']:.1e}.",
    ]


def draw(figure: Figure, result: dict[str, Any]) -> None:
    """Draw the distance at each update: a line predicts, points are measured."""
    axes = figure.subplots()
    for number, (name, found) in enumerate(result["settings"].items()):
        steps, color = range(1, len(found["measured"]) + 1), f"C{number}"
        axes.plot(steps, found["predicted"], color=color)
        axes.plot(steps, found["measured"], "o", color=color, fillstyle="none", label=name)
        if "eps_divided" in found:
            axes.plot(steps, found["eps_divided"], "x", color=color, label=f"{name}: eps / 10")
    axes.plot([], [], color="gray", label="lines: predicted")
    axes.set_yscale("log")
    axes.set_xlabel("update")
    axes.set_ylabel("distance of the updates, ||D10 - D1|| / ||D1||")
    axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")

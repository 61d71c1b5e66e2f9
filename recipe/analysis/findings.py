"""Describe the analysis of a run in plain English."""

from math import isfinite, isnan

from recipe.analysis.bootstrap import Estimate
from recipe.analysis.counterfactual import Analysis

# Below this part of the objective a difference is shown as 0.0 %.
VISIBLE = 0.0005


def findings(analysis: Analysis) -> list[str]:
    """Describe what the trained rule did with the signs, what others would change, and when."""
    run, trained = analysis.run, analysis.trained
    if isnan(run[f"objective_share_negative/{trained}"].value):
        return [
            "No rule would have changed this run: the scores of each group are equal, so every "
            "advantage is 0 and there is no objective to share."
        ]
    return [signs(analysis), moves(analysis), regime(analysis), noise(analysis)]


def signs(analysis: Analysis) -> str:
    """Compare the share of negative responses with `balanced` (or `token` if that was trained)."""
    run, trained = analysis.run, analysis.trained
    rival = "token" if trained == "balanced" else "balanced"
    own, other = (run[f"objective_share_negative/{name}"] for name in (trained, rival))
    excess = run[f"excess/{rival}"]
    said = (
        f"Under `{trained}`, taken as the rule of this run, negative responses had {percent(own)} "
        f"of the objective; `{rival}` would have given them {percent(other)}."
    )
    if max(abs(x) for x in excess) < VISIBLE:
        return f"{said} As to the signs the two rules do the same here."
    if not apart(excess):
        return (
            f"{said} The difference of {points(excess)} points is not told from none by the "
            f"groups of this run."
        )
    return f"{said} The difference is {points(excess)} points. {when(analysis, rival)}"


def when(analysis: Analysis, rival: str) -> str:
    """Describe at which step the signs' shares differ most, and at how many they surely differ."""
    defined = {
        step: found[f"excess/{rival}"]
        for step, found in analysis.steps.items()
        if isfinite(found[f"excess/{rival}"].value)
    }
    if len(defined) == 1:
        return "There is one step only."
    most = max(defined, key=lambda step: abs(defined[step].value))
    clear = sum(apart(excess) for excess in defined.values())
    return (
        f"It was largest at step {most} ({points(defined[most])}; the extreme of {len(defined)} "
        f"noisy values), and at {clear} of {len(defined)} steps its interval leaves out 0."
    )


def moves(analysis: Analysis) -> str:
    """Describe how much of the objective other rules would have given to other responses."""
    run, trained = analysis.run, analysis.trained
    moved = {name: run[f"moved/{name}"] for name in analysis.rules if name != trained}
    order = sorted(moved, key=lambda name: -moved[name].value)
    listed = ", ".join(f"`{name}` {percent(moved[name])}" for name in order)
    if moved[order[0]].value < VISIBLE:
        return (
            f"No other rule would have changed this run: none gives a visible part of the "
            f"objective to other responses than `{trained}` ({listed})."
        )
    return (
        f"Part of the objective that another rule would have given to other responses than "
        f"`{trained}`, within a step: {listed}."
    )


def regime(analysis: Analysis) -> str:
    """Describe which of the paper's two quantities moves more of the objective."""
    run = analysis.run
    if isnan(run["length_gap"].value):
        return "No group holds both signs, so the paper's two quantities cannot be compared."
    gap, variation = run["moved_by_gap"], run["moved_by_variation"]
    value, low, high = run["length_gap"]
    if value < 0:
        longer, size = "shorter", Estimate(-value, -high, -low)
    else:
        longer, size = "longer", run["length_gap"]
    said = (
        f"Within groups, lengths vary by {percent(run['length_variation'])} of their mean, and "
        f"negative responses are {longer} than positive ones by {percent(size)} of it. Measured "
        f"against `balanced`, the variation lets `sequence` move {percent(variation)} of the "
        f"objective between responses of the same sign, and the gap lets `token` move "
        f"{points(gap)} points to the negative ones."
    )
    larger = run["gap_over_variation"]
    if max(abs(x) for x in larger) < VISIBLE:
        return f"{said} Neither is visible: the run is in neither regime of arXiv:2605.04077."
    if not apart(larger):
        return (
            f"{said} The groups of this run do not tell which is larger: it is between the two "
            f"regimes of arXiv:2605.04077."
        )
    if larger.value > 0:
        return (
            f"{said} The gap moves more: the run is in the regime in which arXiv:2605.04077 finds "
            f"`sequence` relatively better than `token`."
        )
    return (
        f"{said} The variation moves more: the run is in the regime in which arXiv:2605.04077 "
        f"finds `token` relatively better than `sequence`."
    )


def noise(analysis: Analysis) -> str:
    """Describe the order of the rules as far as lengths and signs tell it."""
    ratio = {
        name: analysis.run[f"signal_over_noise/{name}"]
        for name in analysis.rules
        if name != analysis.trained
    }
    if any(isnan(one.value) for one in ratio.values()):
        return "No group holds both signs, so the noise of the rules cannot be compared."
    order = sorted(ratio, key=lambda name: -ratio[name].value)
    listed = ", ".join(f"`{name}` {number(ratio[name], digits=2)}" for name in order)
    return (
        f"If every token had independent noise of the same size, the signal over noise of a "
        f"batch's gradient, over that of `{analysis.trained}`, would be: {listed}. Lengths and "
        f"signs do not say how noisy gradients really are, nor which rule is biased: "
        f"`python -m recipe.probe estimator` measures both on a model."
    )


def apart(found: Estimate) -> bool:
    """Return whether the interval excludes 0; an undefined interval does not."""
    return found.low > 0 or found.high < 0


def percent(found: Estimate) -> str:
    """Format as `63.0% [61.2, 65.0]`."""
    return number(found, scale=100, unit="%")


def points(found: Estimate) -> str:
    """Format as `+13.0 [11.2, 15.0]`, in percentage points."""
    return number(found, scale=100, sign="+")


def number(
    found: Estimate, scale: float = 1, unit: str = "", digits: int = 1, sign: str = "-"
) -> str:
    """Format a value and, if it has one, its interval."""
    if isnan(found.value):
        return "-"
    # Adding 0 turns -0.0, which rounding can leave, into 0.
    value, low, high = (round(scale * x, digits) + 0.0 for x in found)
    said = f"{value:{sign}.{digits}f}{unit}"
    return said if isnan(low) else f"{said} [{low:.{digits}f}, {high:.{digits}f}]"

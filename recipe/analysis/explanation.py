"""Explain a run in one paragraph: why lengths moved, what the rule did with them, and how sure."""

from math import isnan

from recipe.analysis.bootstrap import LEVEL, Estimate
from recipe.analysis.counterfactual import Analysis
from recipe.analysis.drift import SIGNS, Drift
from recipe.analysis.findings import VISIBLE, apart, number, percent, points

# Intervals over fewer groups are too narrow (a choice of this project), so no claim rests on them.
FEW = 20
UNSURE = "is not distinguishable from zero"
NAMES = {
    "positive": "positive responses",
    "negative": "negative responses",
    "zero": "responses with advantage 0",
    "mix": "the shares of the signs",
}


def explanation(analysis: Analysis, unit: str = "tokens") -> str:
    """Return the paragraph.

    Args:
        analysis: what was found.
        unit: what lengths count.
    """
    said = [lengths_moved(analysis.drift, unit)]
    if isnan(analysis.run[f"objective_share_negative/{analysis.trained}"].value):
        said.append("Every advantage is 0, so there was no objective that a rule could share.")
    elif analysis.num_mixed < FEW:
        said.append(too_few(analysis))
    else:
        said += [coupling(analysis), counterfactual(analysis)]
    return " ".join([*said, certainty(analysis)])


def lengths_moved(drift: Drift | None, unit: str) -> str:
    """Say whether responses became longer, and which sign made them so."""
    if drift is None:
        return "The dump has one step, so it does not show whether lengths moved."
    before, after = drift.found["before"].value, drift.found["after"].value
    change = drift.found["change"]
    means = (
        f"responses had {before:.1f} {unit} on average in {span(drift.first)} and {after:.1f} in "
        f"{span(drift.last)}"
    )
    if drift.num_groups < FEW:
        return (
            f"The run is too short to tell whether lengths moved: {means}, but with "
            f"{drift.num_groups} groups in a half of the run the change {UNSURE} ({FEW} are "
            f"needed)."
        )
    amount = number(change, sign="+")
    if not apart(change):
        said = f"Lengths did not move on average: {means}, and the change of {amount} {UNSURE}."
    else:
        way = "longer" if change.value > 0 else "shorter"
        said = f"Responses became {way}: {means}, a change of {amount}."
    return " ".join([said, *causes(drift)])


def causes(drift: Drift) -> list[str]:
    """Say what the change of the mean length is made of, the largest part first."""
    parts = {name: drift.found[f"part/{name}"] for name in (*SIGNS, "mix")}
    clear = [name for name, part in parts.items() if apart(part)]
    if not clear:
        return ["No part of it is distinguishable from zero."]
    clear.sort(key=lambda name: -abs(parts[name].value))
    listed = ", ".join(
        f"{number(parts[name], sign='+')} because {cause(drift, name)}" for name in clear
    )
    said = [f"Of this change, these parts are clear: {listed}."]
    rest = [NAMES[name] for name in parts if name not in clear]
    if rest:
        said.append(f"The part of {' and of '.join(rest)} is not distinguishable from zero.")
    return said


def cause(drift: Drift, name: str) -> str:
    """Describe one part of the change."""
    if name == "mix":
        return "the shares of the signs changed"
    way = "longer" if drift.found[f"length/{name}"].value > 0 else "shorter"
    return f"{NAMES[name]} became {way}"


def span(steps: tuple[int, int]) -> str:
    """Name a range of steps."""
    first, last = steps
    return f"step {first}" if first == last else f"steps {first} to {last}"


def too_few(analysis: Analysis) -> str:
    """Say what a dump of few groups shows, without a claim."""
    run, trained, mixed = analysis.run, analysis.trained, analysis.num_mixed
    own = run[f"objective_share_negative/{trained}"].value
    other = run["objective_share_negative/sequence"].value
    shares = f"`{trained}` gave negative responses {own:.1%} of the objective"
    if trained != "sequence":
        shares += f", where `sequence`, for which length does not count, gives {other:.1%}"
    if mixed:
        shares += f"; within a group they were {size_of_gap(run['length_gap'], bare=True)}"
    return (
        f"{shares}. With {mixed} groups of both signs the effect {UNSURE} ({FEW} are "
        f"needed), so no other rule is said to change it."
    )


def size_of_gap(gap: Estimate, *, bare: bool = False) -> str:
    """Describe a gap of lengths, as words after "negative responses were"."""
    way = "longer" if gap.value > 0 else "shorter"
    size = gap if gap.value > 0 else Estimate(-gap.value, -gap.high, -gap.low)
    said = f"{size.value:.1%}" if bare else percent(size)
    return f"{way} than positive ones by {said} of the group's mean length"


def coupling(analysis: Analysis) -> str:
    """Say which sign is longer, and whether the rule turned that into a share of the objective."""
    run, trained = analysis.run, analysis.trained
    gap, value = run["length_gap"], run[f"sign_length_coupling/{trained}"]
    said = f"Within a group, negative responses were {size_of_gap(gap)}"
    said += "." if apart(gap) else ", a gap that is not distinguishable from zero."
    own = percent(run[f"objective_share_negative/{trained}"])
    other = percent(run["objective_share_negative/sequence"])
    if trained == "sequence":
        return (
            f"{said} Under `sequence` the length of a response does not change its share, so signs "
            f"and lengths were not coupled: negative responses had {own} of the objective."
        )
    amount = number(value, digits=2, sign="+")
    if apart(value) and abs(run["excess/sequence"].value) >= VISIBLE:
        side = "negative" if value.value < 0 else "positive"
        return (
            f"{said} `{trained}` moved the objective to the {side} ones because of lengths: "
            f"negative responses had {own} of it, and {other} under `sequence`, for which length "
            f"does not count (sign-length coupling {amount})."
        )
    return (
        f"{said} Under `{trained}` negative responses had {own} of the objective, and {other} "
        f"under `sequence`, for which length does not count: the sign-length coupling of {amount} "
        f"{UNSURE}."
    )


def counterfactual(analysis: Analysis) -> str:
    """Say which rules would have given the signs other shares of the objective."""
    run, trained = analysis.run, analysis.trained
    excess = {name: run[f"excess/{name}"] for name in analysis.rules if name != trained}
    clear = [n for n, found in excess.items() if apart(found) and abs(found.value) >= VISIBLE]
    if not clear:
        return (
            "No other rule would have changed the shares of the signs by an amount that is "
            "distinguishable from zero."
        )
    # What a rule adds to the share of negative responses is minus the excess.
    added = ", ".join(
        f"`{name}` {points(Estimate(-found.value, -found.high, -found.low))}"
        for name, found in sorted(excess.items(), key=lambda item: -abs(item[1].value))
        if name in clear
    )
    said = (
        f"Other rules would have given negative responses another share of the objective; they "
        f"would have added, in points: {added}."
    )
    same = [f"`{name}`" for name in excess if name not in clear]
    return f"{said} No measurable change under {' and '.join(same)}." if same else said


def certainty(analysis: Analysis) -> str:
    """Say what the intervals rest on, and what no interval can say."""
    return (
        f"Intervals in brackets are {LEVEL:.0%} intervals over groups: {analysis.num_groups} in "
        f"all, {analysis.num_mixed} with both signs. The same responses are weighed again, so this "
        f"does not say what another rule would have trained, nor that the rule moved the lengths."
    )

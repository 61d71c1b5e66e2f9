"""Say which rule estimates the gradient best, as a table, a picture and one sentence."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from recipe.base.tables import markdown_table

# The measure that the recommendation goes by: steps of AdamW, each of the same length.
DECISIVE = "gain_own_norm/adamw"
COLUMNS = {
    "cosine/sgd": "cosine",
    "snr/sgd": "SNR",
    "gain_own_norm/sgd": "gain, own norm",
    "gain_rms/sgd": "gain, RMS",
    "gain_own_norm/adamw": "AdamW: gain, own norm",
    "gain_rms/adamw": "AdamW: gain, RMS",
    "gain_rms_16/adamw": "AdamW: gain, RMS, 16 averaged",
}
MEASURED = {"measured/sgd": "measured, SGD", "measured/adamw": "measured, AdamW"}


def report(result: Mapping[str, Any]) -> list[str]:
    """Return the lines of the report."""
    options, rules = result["options"], result["rules"]
    taken = [key for key in MEASURED if key in next(iter(rules.values()))]
    head = ("rule", *COLUMNS.values(), *(f"{MEASURED[key]} (1/1000)" for key in taken), "negative")
    lines = [
        (
            name,
            *(with_error(found[key]) for key in COLUMNS),
            *(with_error(found[key], 1e3, 1) for key in taken),
            f"{found['share_negative']:.0%}",
        )
        for name, found in rules.items()
    ]
    baseline = options["baseline"]
    differences = [
        (
            name,
            *(with_error(found[key], prefix="difference") for key in COLUMNS),
            *(with_error(found[key], 1e3, 1, "difference") for key in taken),
        )
        for name, found in rules.items()
        if name != baseline
    ]
    gap, variation = result["length_gap"], result["length_variation"]
    seeds = options["seed"]
    every, over = "", "Values +- half of a 95 % interval. "
    if isinstance(seeds, list):
        every = f"each of {len(seeds)} seeds, "
        over = "Means over seeds +- half of a 95 % interval. "
    sketch = (
        f"Gradients are sketched: a cosine has an error of about {result['sketch_error']:.1%}."
        if result["sketch_error"]
        else "Gradients are exact."
    )
    return [
        f"{options['prompts']} prompts x {options['group']} responses, {every}batches of "
        f"{options['batch_groups']} groups, advantages `{options['advantage']}`. "
        f"{result['correct']:.1%} of the responses are correct, {result['num_mixed']} groups are "
        f"mixed. Length gap {shown(gap)}, length variation {shown(variation)}. {sketch}",
        "",
        *markdown_table(head, lines),
        "",
        f"Differences to `{baseline}`:",
        "",
        *markdown_table(head[:-1], differences),
        "",
        f"{over}`cosine`: between the expected gradient and the true one, corrected for noise. "
        "`SNR`: signal over noise of one batch. `gain`: expected rise of the score by a step, over "
        "that of a step of the same length along the true gradient. `measured`: rise of the score "
        "of fresh prompts by one real step; a step along the true gradient would raise it by "
        f"{1e3 * result['rise']:.0f} to first order. `negative`: share of the objective that "
        "incorrect responses have.",
        "",
        recommendation(result),
    ]


def shown(value: float | None) -> str:
    """Return a number with its sign, or a dash."""
    return "-" if value is None else f"{value:+.2f}"


def with_error(
    found: Mapping[str, float | None], scale: float = 1, digits: int = 3, prefix: str = ""
) -> str:
    """Return a value with the half width of its interval, or a dash."""
    value, half = (
        found[key]
        for key in (("difference", "difference_half_width") if prefix else ("value", "half_width"))
    )
    if value is None or half is None:
        return "-"
    sign = "+" if prefix else ""
    return f"{scale * value:{sign}.{digits}f} +- {scale * half:.{digits}f}"


def recommendation(result: Mapping[str, Any]) -> str:
    """Return one sentence: which rule, how sure, or that the choice does not matter.

    Several rules are compared with the baseline at once, so their intervals hold together.
    """
    rules, baseline = result["rules"], result["options"]["baseline"]
    known = {
        name: found[DECISIVE]
        for name, found in rules.items()
        if found[DECISIVE]["value"] is not None and found[DECISIVE]["half_width"] is not None
    }
    if baseline not in known or len(known) < 2:
        return "These prompts do not tell the rules apart: noise hides the gradient. Give more."
    apart = {
        name: found
        for name, found in known.items()
        if name != baseline and abs(found["difference"]) > found["difference_half_width_together"]
    }
    best = max(known, key=lambda name: known[name]["value"])
    if best in apart:
        gain = known[best]["difference"] / known[baseline]["value"]
        return (
            f"**Recommended here: `{best}`.** A step along its gradient gains {gain:+.0%} over "
            f"`{baseline}` (95 % interval, widened for {len(known) - 1} comparisons, above 0)."
        )
    worse = [name for name in apart if known[name]["difference"] < 0]
    if worse:
        return (
            f"**Keep `{baseline}`, or any rule but {', '.join(f'`{name}`' for name in worse)}**, "
            f"which gain less. No rule gains more than `{baseline}` beyond its interval."
        )
    return (
        f"**The choice does not matter here** as far as {result['options']['prompts']} prompts can "
        f"tell: no rule's gain differs from that of `{baseline}` beyond its interval."
    )


def draw(figure: Figure, result: Mapping[str, Any]) -> None:
    """Draw the gain of every rule with its interval, and bias against noise."""
    left, right = figure.subplots(1, 2)
    rules = result["rules"]
    gains = {DECISIVE: "own norm", "gain_rms/adamw": "root mean square"}
    for offset, label in enumerate(gains.values()):
        left.plot([], [], "os"[offset], color=f"C{offset}", label=label)
    for row, (name, found) in enumerate(rules.items()):
        for offset, key in enumerate(gains):
            if None not in (found[key]["value"], found[key]["half_width"]):
                left.errorbar(
                    found[key]["value"],
                    row + 0.2 * offset,
                    xerr=found[key]["half_width"],
                    fmt="os"[offset],
                    color=f"C{offset}",
                )
        cosine, snr = found["cosine/adamw"]["value"], found["snr/adamw"]["value"]
        if None not in (cosine, snr):
            right.plot(snr, cosine, "o")
            right.annotate(name, (snr, cosine), fontsize=8)
    left.set_yticks(range(len(rules)), list(rules))
    left.invert_yaxis()
    left.set_xlabel("gain of a step of AdamW (1: along the true gradient)")
    left.legend()
    right.set_xlabel("signal over noise of a batch")
    right.set_ylabel("cosine of the expected and the true gradient")
    for axes in (left, right):
        axes.grid(alpha=0.3)

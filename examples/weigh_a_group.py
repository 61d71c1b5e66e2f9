"""Weigh the tokens of one group under four rules, and draw who gets which share.

    python -m examples.weigh_a_group [--out FILE.png]

It needs torch and matplotlib.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# With the library installed: import balanced_aggregation as ba
from recipe import maths as ba

# One prompt, eight responses: three are correct and short, five are incorrect and long.
LENGTHS = [120, 150, 180, 300, 340, 420, 500, 560]
CORRECT = [True, True, True, False, False, False, False, False]
GROUPS = ["prompt 1"] * 8
RULES = ["sequence", "token", "balanced", "constant"]


def main() -> None:
    """Print the report of the group and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/examples/group.png"))
    out = parser.parse_args().out

    # Dr. GRPO's advantages: the reward minus the mean of the group.
    mean = sum(CORRECT) / len(CORRECT)
    advantages = [correct - mean for correct in CORRECT]

    # This is all that a trainer needs: multiply each response's token losses by its weight, add
    # up, and divide by the number of responses.
    weights = {rule: ba.weights(rule, LENGTHS, advantages, GROUPS) for rule in RULES}
    print(ba.report(LENGTHS, advantages, GROUPS))

    figure, axes = plt.subplots(1, len(RULES), figsize=(11, 3), sharey=True)
    for axis, (rule, weight_N) in zip(axes, weights.items(), strict=True):
        parts = [
            w * n * abs(a) for w, n, a in zip(weight_N.tolist(), LENGTHS, advantages, strict=True)
        ]
        shares = [100 * part / sum(parts) for part in parts]
        colours = ["tab:green" if correct else "tab:red" for correct in CORRECT]
        axis.bar([str(length) for length in LENGTHS], shares, color=colours)
        of_correct = sum(share for share, is_in in zip(shares, CORRECT, strict=True) if is_in)
        axis.set_title(f"{rule}: correct ones get {of_correct:.0f} %", fontsize=9)
        axis.tick_params(axis="x", labelsize=7)
        axis.set_xlabel("tokens")
    axes[0].set_ylabel("share of the objective, %")
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    print(f"\nwrote {out}: green is correct, red is incorrect")


if __name__ == "__main__":
    main()

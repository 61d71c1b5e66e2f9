"""Add a rule, and see how well it estimates the policy gradient beside the others.

    python -m examples.rank_your_rule

The policy is a Markov chain over five words, so gradients are exact and cheap. It needs torch.
For a language model: `python -m recipe.probe estimator`.
"""

import torch

from recipe.maths import RULES, rule
from recipe.maths.estimators import Rows, batches_of, estimates, products

WORDS, STOP, LONGEST = 5, 4, 40
PROMPTS, GROUP = 384, 8


@rule("root")
def root_weights(length_N, advantage_N, group_N):
    """Return one over the root of each response's length: half-way from constant to sequence."""
    return length_N.double() ** -0.5


def sample(logits, num, generator):
    """Return length, reward and gradient of the log-probability of `num` responses.

    Word 3 is a slip. After one, the chain is in a state in which it rarely stops, so incorrect
    responses are long.
    """
    probabilities = logits.softmax(-1)
    lengths, rewards, gradients = [], [], []
    for _ in range(num):
        state, slipped, length = 0, False, 0
        gradient = torch.zeros_like(logits)
        while length < LONGEST:
            word = int(torch.multinomial(probabilities[state], 1, generator=generator))
            # d log softmax(z)[word] / dz = onehot(word) - softmax(z)
            gradient[state] -= probabilities[state]
            gradient[state, word] += 1
            length, slipped = length + 1, slipped or word == 3
            if word == STOP:
                break
            state = word
        lengths.append(length)
        rewards.append(float(word == STOP and not slipped))
        gradients.append(gradient.flatten())
    return lengths, rewards, gradients


def main():
    """Print cosine, noise and gain of each rule's gradient."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(WORDS, WORDS, generator=generator, dtype=torch.double)
    logits[3, STOP] -= 2.0
    lengths, rewards, gradients = sample(logits, PROMPTS * GROUP, generator)
    gradient_ND = torch.stack(gradients)
    rows = Rows(
        torch.tensor(lengths), torch.tensor(rewards), torch.arange(PROMPTS).repeat_interleave(GROUP)
    )
    rules = {name: RULES[name] for name in ("sequence", "root", "constant", "token", "balanced")}
    batch_P = batches_of(PROMPTS, 8, generator)
    found = estimates([products(gradient_ND @ gradient_ND.T, rows, rules, "none", batch_P)])
    correct_N = rows.score_N > 0
    print(
        f"{correct_N.double().mean():.0%} correct; mean length "
        f"{rows.length_N[correct_N].double().mean():.1f} of correct and "
        f"{rows.length_N[~correct_N].double().mean():.1f} of incorrect responses\n"
    )
    columns = {"cosine": "cosine", "snr": "SNR of a batch", "gain_rms": "gain of a step"}
    print("rule      " + "".join(f"{title:>22}" for title in columns.values()))
    for number, name in enumerate(rules):
        cells = [
            f"{found[key].value_R[number]:.3f} +- {2 * found[key].standard_error()[number]:.3f}"
            for key in columns
        ]
        print(f"{name:<10}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()

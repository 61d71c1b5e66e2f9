"""Print, as JSON, how far the laboratory's gradients are from those of verl's engine."""

import json

import torch

from recipe.config.compose import composed, resolve
from recipe.tasks import embedded
from recipe.training.alone import prepare_verl

RULES = ("token", "sequence", "balanced")


def main():
    torch.set_num_threads(1)
    config = composed(["+experiment=cpu_demo", "data.train_batch_size=4"])
    resolve(config)
    embedded.make(config.data.task)
    prepare_verl(config)
    # They import verl, which asks its platform while it is imported.
    from recipe.config.settings import Settings
    from recipe.maths.rules import RULES as every
    from recipe.objectives.policy_gradient import WEIGHT_COLUMN
    from recipe.probes.stage import NO_CLIP, Stage, columns
    from recipe.study.laboratory import as_batch, log_probs, loss_of, of_responses

    stage = Stage(config, lambda text: None)
    groups = stage.mixed_groups(16, 4)
    engine = stage.engine(optim={"lr": 0.0, "clip_grad": NO_CLIP})
    scored = [
        one._replace(score=score)
        for one, score in zip(as_scored(groups), groups.score_N.tolist(), strict=True)
    ]
    data, rows = as_batch(scored, config)
    model = stage.sampler.model
    with torch.no_grad():
        own = of_responses(log_probs(model, data)[0], data)
    theirs = engine.log_probs(groups)
    difference = max(
        (one - other).abs().max().item() for one, other in zip(own.unbind(0), theirs, strict=True)
    )
    # Ratios away from 1, and some of them past the clip bounds.
    generator = torch.Generator().manual_seed(0)
    old = [one + 0.2 * torch.randn(len(one), generator=generator) for one in theirs]
    data["old_log_probs"] = torch.nested.as_nested_tensor(old, layout=torch.jagged)
    loss = Settings.of(config).begin(config).loss()
    sent = columns(groups, rows.advantage_N, old)
    found = {"log_probs": difference}
    for rule in RULES:
        weight_N = every[rule](rows.length_N, rows.advantage_N, rows.group_N)
        reference = engine.gradient(sent, weight_N)
        data[WEIGHT_COLUMN] = weight_N.float()
        model.zero_grad()
        loss_of(loss, model, data)[0].backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()]).double()
        found[rule] = ((gradient - reference).norm() / reference.norm()).item()
        found[f"{rule} on-policy"] = on_policy(engine, groups, theirs, rows, weight_N, reference)
    print(json.dumps(found))


def as_scored(groups):
    from recipe.sampling.scored import Scored

    return [
        Scored(prompt, token, 0.0)
        for prompt, token in zip(groups.prompt_N, groups.token_N, strict=True)
    ]


def on_policy(engine, groups, log_prob_N, rows, weight_N, reference):
    """Return how far the on-policy gradient is from the one at the other ratios."""
    from recipe.probes.stage import columns

    other = engine.gradient(columns(groups, rows.advantage_N, log_prob_N), weight_N)
    return ((other - reference).norm() / reference.norm()).item()


if __name__ == "__main__":
    main()

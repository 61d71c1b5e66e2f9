"""Write the help of recipe.main: the groups with their options, and the keys that matter."""

from recipe.config.groups import groups

KEYS = {
    "seed": "of everything that draws",
    "output_root, data_root": "folders that runs are written to, and data read from",
    "data.train_batch_size": "prompts a step",
    "data.max_response_length": "tokens a response may have (data.max_prompt_length: a prompt)",
    "actor_rollout_ref.rollout.n": "responses a prompt, the group",
    "actor_rollout_ref.rollout.temperature": "of sampling (rollout.val_kwargs: in validation)",
    "actor_rollout_ref.rollout.gpu_memory_utilization": "part of a GPU that vLLM takes",
    "actor_rollout_ref.actor.ppo_mini_batch_size": "prompts an update",
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": "tokens of a micro-batch",
    "actor_rollout_ref.actor.optim.lr": "learning rate",
    "actor_rollout_ref.actor.policy_loss.loss_mode": "verl's policy loss",
    "aggregation.mask_truncated": "leave responses cut at the limit out of the policy term",
    "data.val_tasks": "tasks of recipe/tasks/definitions that are validated on",
    "trainer.total_training_steps": "length of the run",
    "trainer.test_freq, trainer.save_freq": "steps between validations, between checkpoints",
}


def help_text() -> str:
    """Return the groups with their options, and the keys that matter."""
    parts = [
        "Train one run.\n",
        "    python -m recipe.main +experiment=NAME [GROUP=OPTION...] [KEY=VALUE...]\n",
        "An experiment chooses an option of the groups below it; GROUP=OPTION chooses another. "
        "Without one,\nchoose at least model=, data= and cluster=.\n",
    ]
    for group, options in groups().items():
        width = max(map(len, options))
        prefix = "+" if group == "experiment" else ""
        parts.append(f"{prefix}{group}=")
        parts += [f"    {name:{width}}  {text}" for name, text in options.items()]
        parts.append("")
    parts.append("Keys that matter, beside every other one of verl (--cfg job prints them all)")
    width = max(map(len, KEYS))
    parts += [f"    {keys:{width}}  {text}" for keys, text in KEYS.items()]
    return "\n".join(parts)

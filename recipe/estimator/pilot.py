"""Fix the number of prompts beforehand, from a pilot and a wanted precision.

A probe that sampled until its intervals look narrow would stop at lucky samples. So the pilot's
responses decide the number of prompts, and are used for nothing else.
"""

import math
from collections.abc import Callable
from typing import Any

from recipe.base.errors import UserError
from recipe.estimator.options import Options
from recipe.estimator.report import DECISIVE

# The least number of batches of a pilot, whose interval must be known fairly well.
BATCHES = 8
# Between the seeds of a pilot and of its probe.
ANOTHER_SEED = 1_000_003


def pilot_of(options: Options) -> Options:
    """Return the options of the pilot: few prompts of another seed, and no measured step."""
    prompts = BATCHES * options.batch_groups
    return options._replace(
        prompts=prompts, step_batches=0, fresh=0, seed=options.seed + ANOTHER_SEED
    )


def needed_prompts(pilot: dict[str, Any], precision: float, say: Callable[[str], None]) -> int:
    """Return how many prompts make the intervals of all differences narrow enough.

    The half width of an interval falls as one over the square root of the number of prompts.

    Args:
        pilot: the result of the pilot.
        precision: wanted half width of the 95 % interval of a rule's gain beside the baseline's.
        say: shows what was found.

    Raises:
        UserError: the pilot does not tell the gradient from noise.
    """
    options = pilot["options"]
    widths = [
        found[DECISIVE]["difference_half_width"]
        for name, found in pilot["rules"].items()
        if name != options["baseline"]
    ]
    known = [width for width in widths if width is not None]
    if not known:
        raise UserError(
            f"a pilot of {options['prompts']} prompts does not tell the rules' gradients from "
            f"noise, so no number of prompts follows from it. Give --prompts."
        )
    batch = options["batch_groups"]
    wanted = options["prompts"] * (max(known) / precision) ** 2
    prompts = max(4, math.ceil(wanted / batch)) * batch
    say(
        f"pilot: half width {max(known):.3f} with {options['prompts']} prompts, so {prompts} "
        f"prompts for {precision:g}"
    )
    return prompts

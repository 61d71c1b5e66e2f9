"""Write a small table of rollouts, as any trainer could log it, and explain it.

    python -m examples.analyse_a_dump

Responses become longer over the steps, and incorrect ones more so. It needs neither verl nor a
model: the table has token counts.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

FOLDER = Path("outputs/examples")
STEPS, PROMPTS, GROUP = 6, 24, 8


def main() -> None:
    """Write the table, then run the command that reads it."""
    draw = random.Random(0)
    FOLDER.mkdir(parents=True, exist_ok=True)
    table = FOLDER / "rollouts.jsonl"
    with table.open("w") as file:
        for step in range(1, STEPS + 1):
            for prompt in range(PROMPTS):
                for _ in range(GROUP):
                    is_correct = draw.random() < 0.3 + 0.05 * step
                    mean = 200 + 10 * step + (0 if is_correct else 60 + 30 * step)
                    row = {
                        "update": step,
                        "question": f"problem {prompt}",
                        "tokens": max(1, round(draw.gauss(mean, 60))),
                        "score": float(is_correct),
                    }
                    file.write(json.dumps(row) + "\n")
    columns = "prompt=question,length=tokens,reward=score,step=update"
    command = [sys.executable, "-m", "recipe.analyze", str(table), "--columns", columns]
    print(f"python {' '.join(command[1:])}\n", flush=True)
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def probe(tmp_path):
    """The result of a probe, in a process of its own, as it leaves a process group behind."""

    def run(name: str, **sizes: int) -> dict:
        """Run the command, with some constants of the probe's module smaller."""
        code = (
            f"from recipe import probe; from recipe.probes import {name}; "
            f"vars({name}).update({sizes}); probe.main()"
        )
        command = [sys.executable, "-c", code, name, "--out", str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        result = json.loads((tmp_path / "result.json").read_text())
        assert result["command"].startswith(f"python -m recipe.probe {name} --out")
        report = (tmp_path / "report.md").read_text()
        assert f"![{name}]({name}.png)" in report and (tmp_path / f"{name}.png").exists()
        for shown in (done.stdout, report):
            assert f"{result['largest_deviation']:.1e}." in shown
        return result

    return run

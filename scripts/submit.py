"""Submit runs as Ray jobs, and follow them until they end.

    python -m scripts.submit EXPERIMENT... --rule R... --seed S... [KEY=VALUE...] --address URL
    python -m scripts.submit --sweep paper_table --dry-run
    python -m scripts.submit --sweep cpu_demo --local
    python -m scripts.submit EXPERIMENT --probe "estimator --prompts 512" --gpus 8 --address URL
    python -m scripts.submit --status | --logs JOB | --stop JOB...

Given again, the same command submits only runs that have not finished. It may be stopped at any
time: the jobs on a cluster continue, and the same command follows them again.
"""

import argparse
import logging
import os
import secrets
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from ray.job_submission import JobSubmissionClient

from recipe.base.command import command_parser, errors_reported
from recipe.base.errors import UserError
from recipe.base.paths import CONFIGS
from recipe.base.provenance import provenance
from recipe.base.tables import markdown_table
from recipe.config.checks import check_config
from recipe.run.cluster import alone_with_ray
from recipe.run.processes import Watch, clean_up_killed, temporary_folder
from scripts.jobs.probe import PlannedProbe, plan_probe
from scripts.jobs.ray_jobs import (
    SubmitSettings,
    entrypoint,
    our_jobs,
    reaching,
    work_off,
)
from scripts.jobs.sweep import Grid, PlannedRun, plan, print_plan, print_results

# Ray's own variables for a job server, in its order.
ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; overrides may stand anywhere among the names."""
    words = sys.argv[1:] if given is None else given
    overrides = [word for word in words if "=" in word and not word.startswith("--")]
    parser = command_parser("scripts.submit", __doc__)
    parser.add_argument("experiment", nargs="*", help="names in configs/experiment")
    parser.add_argument(
        "--rule",
        nargs="+",
        metavar="METHOD",
        help="RULE[+ADVANTAGE][+OBJECTIVE] or preset (balanced)",
    )
    parser.add_argument("--seed", nargs="+", type=int, help="numbers (0)")
    parser.add_argument("--sweep", help="a file in configs/sweep, instead of the three above")
    parser.add_argument(
        "--probe", metavar="ARGUMENTS", help="of recipe.probe, which becomes a job instead of runs"
    )
    parser.add_argument("--gpus", type=int, default=1, help="of the probe, all on one node (1)")
    parser.add_argument("--address", help="of the job server, http://HEAD:8265")
    parser.add_argument("--local", action="store_true", help="a Ray of its own on this machine")
    parser.add_argument("--dry-run", action="store_true", help="check and print, submit nothing")
    parser.add_argument("--max-concurrent", type=int, default=1, help="runs at a time (1)")
    parser.add_argument(
        "--retries", type=int, default=1, help="further attempts of a failed run (1)"
    )
    parser.add_argument(
        "--output-root",
        type=Path,
        default=Path("outputs"),
        help="where all nodes of the cluster see it (outputs)",
    )
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="likewise (data)")
    parser.add_argument("--python", help="interpreter on the cluster (python)")
    parser.add_argument(
        "--env",
        nargs="+",
        default=[],
        metavar="NAME",
        help="variables of this shell that every job gets",
    )
    parser.add_argument("--status", action="store_true", help="the jobs that the cluster knows")
    parser.add_argument("--logs", metavar="JOB", help="print a job's log")
    parser.add_argument("--stop", nargs="+", metavar="JOB", help="stop jobs")
    options = parser.parse_args([word for word in words if word not in overrides])
    options.overrides = overrides
    return options


def command(options: argparse.Namespace) -> int:
    """Run the command; return 0 if every run finished.

    Raises:
        UserError: something asked for does not exist or cannot be reached.
    """
    if options.status or options.logs or options.stop:
        return about_jobs(options)
    check_numbers(options)
    runs: Sequence[PlannedRun | PlannedProbe] = (
        [probe(options)] if options.probe else planned_runs(options)
    )
    settings = SubmitSettings(
        options.max_concurrent,
        options.retries,
        options.python or (sys.executable if options.local else "python"),
        {"RECIPE_COMMIT": provenance()["commit"] or "", **variables(options.env)},
        options.output_root.absolute() / "jobs",
    )
    if options.dry_run:
        for run in runs:
            print(f"\n{run.name}\n  {entrypoint(run, settings.python)}")
            print("  " + " ".join(f"{key}={value}" for key, value in run.env.items()))
        return 0
    with job_server(options, runs) as client, reaching(client.get_address()):
        failed = work_off(client, runs, settings, say)
    print_results([run for run in runs if isinstance(run, PlannedRun)])
    for run in runs:
        if isinstance(run, PlannedProbe):
            run.print_report()
    for name, last in failed.items():
        log = settings.logs / f"{last.name}.log"
        say(f"{name} did not finish: its log is {log}. Give the same command to try it again")
    return 1 if failed else 0


def planned_runs(options: argparse.Namespace) -> list[PlannedRun]:
    """Return the requested runs, checked and printed."""
    runs = plan(grid(options), places(options))
    for run in runs:
        # What depends on the machine is checked where the run starts.
        check_config(run.config)
    print_plan(runs)
    return runs


def probe(options: argparse.Namespace) -> PlannedProbe:
    """Return the requested probe, checked and printed."""
    if options.sweep or options.rule or options.seed:
        raise UserError(
            "--probe is given beside --sweep, --rule or --seed, which are of training runs. Give "
            'the probe\'s own options as one word: --probe "estimator --rules token --seed 1".'
        )
    planned = plan_probe(
        options.probe,
        options.experiment,
        options.overrides,
        [f"data_root={options.data_root.absolute()}"],
        options.gpus,
        options.output_root,
    )
    print(f"{planned.name}, {planned.gpus} GPUs, writes to {planned.folder}")
    return planned


def check_numbers(options: argparse.Namespace) -> None:
    """Check for options that would never end or would be overruled.

    Raises:
        UserError: an option has such a value.
    """
    if options.max_concurrent < 1 or options.retries < 0 or options.gpus < 1:
        raise UserError(
            f"--max-concurrent is {options.max_concurrent}, --retries {options.retries} and "
            f"--gpus {options.gpus}. Give at least 1 run at a time, 0 or more further attempts, "
            f"and at least 1 GPU."
        )
    if any(override.startswith("trainer.resume_mode=") for override in options.overrides):
        raise UserError(
            "trainer.resume_mode is set, but a job always goes on where an earlier job of its run "
            "stopped. Remove this override, or start a new run with experiment_name=NAME."
        )


def grid(options: argparse.Namespace) -> Grid:
    """Return the requested runs, from the command line or a stored sweep."""
    if options.sweep:
        if options.experiment or options.rule or options.seed:
            raise UserError(
                f"--sweep {options.sweep} says which experiments, rules and seeds. Leave those "
                f"out, or leave out --sweep."
            )
        kept = Grid.read(options.sweep)
        return Grid(kept.experiments, kept.rules, kept.seeds, (*kept.overrides, *options.overrides))
    if not options.experiment:
        known = ", ".join(sorted(path.stem for path in (CONFIGS / "experiment").glob("*")))
        raise UserError(f"no experiment was named. There are {known}; or give --sweep NAME.")
    return Grid(
        tuple(options.experiment),
        tuple(options.rule or ["balanced"]),
        tuple(options.seed or [0]),
        tuple(options.overrides),
    )


def places(options: argparse.Namespace) -> list[str]:
    """Return output and data folders as absolute paths: a job runs in a copy of this folder."""
    return [
        f"output_root={options.output_root.absolute()}",
        f"data_root={options.data_root.absolute()}",
    ]


def variables(names: list[str]) -> dict[str, str]:
    """Return these variables of this process's environment.

    Raises:
        UserError: one is not set.
    """
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise UserError(f"--env names {', '.join(missing)}, not set here. Set or leave out.")
    return {name: os.environ[name] for name in names}


@contextmanager
def job_server(
    options: argparse.Namespace, runs: Sequence[PlannedRun | PlannedProbe]
) -> Iterator[JobSubmissionClient]:
    """Yield a client of the given cluster, or of a Ray that lives as long as this command."""
    if not options.local:
        yield connect(options)
        return
    import ray

    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    on_cpu = all(run.on_cpu for run in runs)
    # A cluster's address in the environment is not meant.
    for name in ADDRESSES:
        os.environ.pop(name, None)
    with alone_with_ray(), temporary_folder() as temporary, Watch(temporary):
        clean_up_killed()
        os.environ["TMPDIR"] = str(temporary)
        at_once = options.max_concurrent
        context = ray.init(
            "local",
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(temporary / "ray"),
            # On a CPU both are logical: most actors wait.
            num_cpus=16 * at_once if on_cpu else None,
            num_gpus=at_once * max(run.gpus for run in runs) if on_cpu else None,
        )
        yield JobSubmissionClient(f"http://{context.dashboard_url}")


def connect(options: argparse.Namespace) -> JobSubmissionClient:
    """Return a client of the given cluster."""
    address = options.address or next((os.environ[a] for a in ADDRESSES if a in os.environ), None)
    if address is None:
        raise UserError(
            f"no cluster was named. Add --address http://HEAD:8265 (or set {ADDRESSES[0]}), or "
            f"--local for a Ray of its own on this machine; --dry-run needs neither."
        )
    if not address.startswith(("http://", "https://")):
        raise UserError(
            f"the cluster's address is {address}, but jobs go to its dashboard. Give "
            f"--address http://HEAD:8265."
        )
    with reaching(address):
        return JobSubmissionClient(address)


def about_jobs(options: argparse.Namespace) -> int:
    """Show, print or stop jobs."""
    client = connect(options)
    with reaching(client.get_address()):
        jobs = our_jobs(client)
        for name in [*([options.logs] if options.logs else []), *(options.stop or [])]:
            if name not in jobs:
                raise UserError(f"the cluster has no job {name}; --status shows the ones it has.")
        if options.logs:
            print(client.get_job_logs(options.logs))
        for name in options.stop or []:
            client.stop_job(name)
            say(f"{name}  asked to stop")
        if options.status:
            table = [
                (name, job.status.value.lower(), at(job.start_time), at(job.end_time))
                for name, job in sorted(jobs.items())
            ]
            print("\n".join(markdown_table(("job", "status", "started", "ended"), table)))
    return 0


def at(milliseconds: int | None) -> str:
    """Format a time, or return a dash."""
    if not milliseconds:
        return "-"
    return datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d %H:%M")


def say(line: str) -> None:
    """Print a line with the time."""
    print(f"{datetime.now():%H:%M:%S}  {line}", flush=True)


def main() -> None:
    """Run the command, and report errors in one paragraph."""
    # Leave by the same way as Ctrl-C, or a Ray of its own would stay.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Ray names every file that it does not upload, and warns of those it leaves out.
    logging.getLogger("ray").setLevel(logging.ERROR)
    with errors_reported(
        stopped="stopped following the jobs. Jobs on a cluster go on; jobs of --local were "
        "stopped. Give the same command to continue with both."
    ):
        sys.exit(command(arguments()))


if __name__ == "__main__":
    main()

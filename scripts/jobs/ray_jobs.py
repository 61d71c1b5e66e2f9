"""Run training runs as Ray jobs: submit under stable names, follow, and try again.

A job is one try of a run, with the submission id NAME.TRY. What a cluster knows of them is all the
state there is: a sweep that is submitted again goes on with what the cluster has.
"""

import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from recipe.base.errors import UserError
from recipe.base.paths import ROOT
from scripts.jobs.sweep import PlannedRun

PROJECT = "balanced-aggregation"
# What no job needs; what .gitignore names Ray leaves out by itself.
EXCLUDES = [f"/{name}" for name in ("outputs", "data", "tests", "benchmarks", "docker")]
POLL_SECONDS = 2.0
ALIVE = (JobStatus.PENDING, JobStatus.RUNNING)


class SubmitSettings(NamedTuple):
    """Hold how a sweep is run."""

    max_concurrent: int
    """Runs at a time."""
    retries: int
    """Further tries of a run whose job failed; each goes on from the last whole checkpoint."""
    python: str
    """The interpreter on the cluster."""
    env: Mapping[str, str]
    """Environment of every job, beside what is made of its run."""
    logs: Path
    """Folder where the logs of ended jobs are kept: a cluster forgets them."""


class Attempt(NamedTuple):
    """Represent one job of a run."""

    name: str
    """The submission id, RUN.NUMBER."""
    number: int
    job: JobDetails

    @property
    def is_alive(self) -> bool:
        """Return whether the job has not ended."""
        return self.job.status in ALIVE


@contextmanager
def reaching(address: str) -> Iterator[None]:
    """Say it in one paragraph when the job server cannot be reached or refuses."""
    try:
        yield
    except (ConnectionError, RuntimeError) as error:
        # Of a server's traceback the last line says it.
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        if "already exists" in reason:
            raise UserError(
                f"somebody else submitted it at the same time, or under the same name: {reason} "
                f"The same command follows what is there; another name is experiment_name=NAME."
            ) from None
        raise UserError(
            f"the Ray job server at {address} does not answer as one: {reason}. Give the address "
            f"of a head's dashboard, e.g. --address http://HEAD:8265 (with its token in "
            f"RAY_AUTH_TOKEN if it asks for one), or use --local. Jobs that were submitted go on; "
            f"the same command finds them again."
        ) from None


def our_jobs(client: JobSubmissionClient) -> dict[str, JobDetails]:
    """Return this project's jobs that the cluster knows, by submission id."""
    return {
        job.submission_id: job
        for job in client.list_jobs()
        if job.submission_id and (job.metadata or {}).get("project") == PROJECT
    }


def last_attempt(jobs: Mapping[str, JobDetails], run: PlannedRun) -> Attempt | None:
    """Return the latest job of a run.

    Raises:
        UserError: it was submitted with another config.
    """
    attempts = [
        Attempt(key, int(number), jobs[key])
        for key in jobs
        for name, _, number in [key.rpartition(".")]
        if name == run.name
    ]
    if not attempts:
        return None
    latest = max(attempts, key=lambda one: one.number)
    if (latest.job.metadata or {}).get("config") != run.digest:
        raise UserError(
            f"the cluster has a job {latest.name} with another config (one of the "
            f"files in configs/, or --output-root, differs), and a name stands for one config. "
            f"Give these runs another name with experiment_name=NAME."
        )
    return latest


def submit(
    client: JobSubmissionClient, run: PlannedRun, number: int, settings: SubmitSettings
) -> None:
    """Submit one try of a run."""
    client.submit_job(
        submission_id=f"{run.name}.{number}",
        entrypoint=entrypoint(run, settings.python),
        runtime_env={
            "working_dir": str(ROOT),
            "excludes": EXCLUDES,
            "env_vars": {**settings.env, **environment(run)},
        },
        metadata={"project": PROJECT, "run": run.name, "config": run.digest},
    )


def entrypoint(run: PlannedRun, python: str) -> str:
    """Return the command of a run's jobs."""
    return shlex.join([python, "-m", "recipe.main", *run.arguments])


def environment(run: PlannedRun) -> dict[str, str]:
    """Return W&B's variables: one W&B run for all attempts of a run, one group for its seeds."""
    seed = rf"-s{run.config.seed}(-\w+)?$"
    return {
        "WANDB_RUN_ID": f"{run.name}-{run.digest}",
        "WANDB_RESUME": "allow",
        "WANDB_RUN_GROUP": re.sub(seed, r"\1", run.name),
        "WANDB_JOB_TYPE": "train",
    }


def work_off(
    client: JobSubmissionClient,
    runs: Iterable[PlannedRun],
    settings: SubmitSettings,
    say: Callable[[str], None],
) -> dict[str, Attempt]:
    """Submit what is not finished, follow it, try again what fails.

    Returns:
        The last try of each run that did not finish, when none is left to be made.
    """
    jobs = our_jobs(client)
    waiting, running, failed = [], {}, {}
    for run in runs:
        latest = last_attempt(jobs, run)
        if run.is_finished:
            say(f"{run.name}  finished before")
        elif latest is None:
            waiting.append((run, 1))
        elif latest.is_alive:
            running[run.name] = run
            say(f"{latest.name}  {latest.job.status.value.lower()} already")
        elif latest.job.status == JobStatus.SUCCEEDED and not run.is_missing:
            say(f"{latest.name}  finished before")
        else:
            waiting.append((run, latest.number + 1))
    left = {run.name: settings.retries for run in [*running.values(), *(run for run, _ in waiting)]}
    while waiting or running:
        while waiting and len(running) < settings.max_concurrent:
            run, number = waiting.pop(0)
            submit(client, run, number, settings)
            running[run.name] = run
            say(f"{run.name}.{number}  submitted")
        time.sleep(POLL_SECONDS)
        jobs = our_jobs(client)
        for name, run in list(running.items()):
            latest = last_attempt(jobs, run)
            if latest is None:
                raise UserError(
                    f"the cluster forgot {name}, as it does when its head is started anew. The "
                    f"same command submits it again; it goes on after its last whole checkpoint."
                )
            if latest.is_alive:
                continue
            del running[name]
            keep_log(client, latest.name, settings.logs, say)
            status = latest.job.status
            say(f"{latest.name}  {status.value.lower()}{because(latest.job)}")
            if status == JobStatus.FAILED and left[name] > 0:
                left[name] -= 1
                waiting.insert(0, (run, latest.number + 1))
            elif status != JobStatus.SUCCEEDED:
                failed[name] = latest
    return failed


def keep_log(
    client: JobSubmissionClient, job: str, folder: Path, say: Callable[[str], None]
) -> None:
    """Write the log of a job that ended, or say why not: its node may be gone, or our disk full."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{job}.log").write_text(client.get_job_logs(job))
    except (OSError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        say(f"{job}  its log is not kept in {folder}: {reason}")


def because(job: JobDetails) -> str:
    """Return why a job failed: the last line of its log, which ends Ray's message."""
    if job.status == JobStatus.SUCCEEDED or not job.message:
        return ""
    return f": {job.message.strip().splitlines()[-1]}"

"""Run training runs and probes as Ray jobs: submit under stable names, follow, and try again.

A job is one attempt of a run, with the submission id NAME.ATTEMPT. The cluster's list of jobs is
the only state, so a sweep that is submitted again continues with the jobs in that list.
"""

import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from recipe.base.errors import UserError
from recipe.base.paths import ROOT

PROJECT = "balanced-aggregation"
# What no job needs; what .gitignore names Ray leaves out by itself.
EXCLUDES = [f"/{name}" for name in ("outputs", "data", "tests", "benchmarks", "docker", "docs")]
POLL_SECONDS = 2.0
ALIVE = (JobStatus.PENDING, JobStatus.RUNNING)


class Planned(Protocol):
    """Represent what becomes a job: a run of a sweep, or a probe."""

    @property
    def name(self) -> str:
        """Return a name, the same for the same command."""
        ...

    @property
    def digest(self) -> str:
        """Return a hash of what it computes."""
        ...

    @property
    def command(self) -> Sequence[str]:
        """Return the arguments of the interpreter."""
        ...

    @property
    def env(self) -> Mapping[str, str]:
        """Return the variables of its environment."""
        ...

    @property
    def own_gpus(self) -> int:
        """Return the GPUs of its own process; those of its Ray actors come beside them."""
        ...

    @property
    def is_finished(self) -> bool:
        """Return whether its report exists, as far as this machine sees the outputs."""
        ...

    @property
    def is_missing(self) -> bool:
        """Return whether this machine sees the outputs, and no report among them."""
        ...


class SubmitSettings(NamedTuple):
    """Hold how a sweep is run."""

    max_concurrent: int
    """Runs at a time."""
    retries: int
    """Further attempts of a failed run; each resumes from the last complete checkpoint."""
    python: str
    """The interpreter on the cluster."""
    env: Mapping[str, str]
    """Environment of every job, beside what is made of its run."""
    logs: Path
    """Folder for the logs of ended jobs, because a cluster does not store them for ever."""


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
    """Raise a UserError if the job server cannot be reached or refuses a request."""
    try:
        yield
    except (ConnectionError, RuntimeError) as error:
        # The last line of a server's traceback holds the reason.
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        if "already exists" in reason:
            raise UserError(
                f"the same job was submitted at the same time or under the same name: {reason} "
                f"Give the same command to follow it, or choose another experiment_name=NAME."
            ) from None
        raise UserError(
            f"the Ray job server at {address} does not answer like one: {reason}. Give "
            f"the address of a head's dashboard, e.g. --address http://HEAD:8265 (with its token "
            f"in RAY_AUTH_TOKEN if it asks for one), or use --local. Submitted jobs "
            f"continue; the same command finds them again."
        ) from None


def our_jobs(client: JobSubmissionClient) -> dict[str, JobDetails]:
    """Return this project's jobs that the cluster knows, by submission id."""
    return {
        job.submission_id: job
        for job in client.list_jobs()
        if job.submission_id and (job.metadata or {}).get("project") == PROJECT
    }


def last_attempt(jobs: Mapping[str, JobDetails], run: Planned) -> Attempt | None:
    """Return the latest job of a run.

    Raises:
        UserError: this job was submitted with another config.
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
    client: JobSubmissionClient, run: Planned, number: int, settings: SubmitSettings
) -> None:
    """Submit one attempt of a run."""
    client.submit_job(
        submission_id=f"{run.name}.{number}",
        entrypoint=entrypoint(run, settings.python),
        runtime_env={
            "working_dir": str(ROOT),
            "excludes": EXCLUDES,
            "env_vars": {**settings.env, **run.env},
        },
        metadata={"project": PROJECT, "run": run.name, "config": run.digest},
        entrypoint_num_gpus=run.own_gpus or None,
    )


def entrypoint(run: Planned, python: str) -> str:
    """Return the command of a run's jobs."""
    return shlex.join([python, *run.command])


def work_off(
    client: JobSubmissionClient,
    runs: Iterable[Planned],
    settings: SubmitSettings,
    say: Callable[[str], None],
) -> dict[str, Attempt]:
    """Submit unfinished runs, follow their jobs, and retry failed ones.

    Returns:
        The last attempt of each run that did not finish, once no attempts are left.
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
                    f"the cluster forgot {name}. This happens when its head restarts. Give the "
                    f"same command to submit it again; it resumes from its last complete "
                    f"checkpoint."
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

import re
import shutil
from collections import Counter
from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus

import recipe.probe
from recipe.base.errors import UserError
from recipe.run.folder import new_folder
from scripts import submit
from scripts.jobs import ray_jobs
from scripts.jobs.ray_jobs import PROJECT, SubmitSettings, work_off
from scripts.jobs.sweep import Grid, plan
from scripts.submit import arguments, command

DEMO = Grid(("cpu_demo",), ("balanced", "token"), (0, 1))


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """The folder of the outputs, and the runs: composing their configs takes seconds."""
    outputs = tmp_path_factory.mktemp("planned") / "outputs"
    return outputs, plan(DEMO, [f"output_root={outputs}"])


@pytest.fixture
def runs(planned):
    outputs, runs = planned
    yield runs
    shutil.rmtree(outputs, ignore_errors=True)


@pytest.fixture
def settings(tmp_path):
    return SubmitSettings(
        max_concurrent=2, retries=1, python="python", env={}, logs=tmp_path / "jobs"
    )


class Cluster:
    """A job server whose jobs end, after two looks, as `ends` says for their id."""

    def __init__(self, ends=None):
        self.jobs, self.ends, self.most_at_once = {}, ends or {}, 0

    def submit_job(
        self, submission_id, entrypoint, runtime_env, metadata, entrypoint_num_gpus=None
    ):
        assert submission_id not in self.jobs, "Ray refuses an id twice"
        self.jobs[submission_id] = SimpleNamespace(
            submission_id=submission_id,
            metadata=metadata,
            status=JobStatus.PENDING,
            message="",
            entrypoint=entrypoint,
            runtime_env=runtime_env,
            num_gpus=entrypoint_num_gpus,
            looks=0,
        )

    def list_jobs(self):
        alive = [job for job in self.jobs.values() if job.status in ray_jobs.ALIVE]
        self.most_at_once = max(self.most_at_once, len(alive))
        for job in alive:
            job.looks += 1
            job.status = JobStatus.RUNNING
            if job.looks > 2:
                job.status = self.ends.get(job.submission_id, JobStatus.SUCCEEDED)
                job.message = "Job failed, last lines:\nerror: no memory"
        return list(self.jobs.values())

    def get_job_logs(self, job):
        return f"log of {job}"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(ray_jobs, "POLL_SECONDS", 0)


def test_a_sweep_is_a_run_for_every_combination_under_a_name_that_stays(planned, runs):
    names = [run.name for run in runs]
    assert names == [
        f"cpu_demo.{rule}-s{seed}" for rule in ("balanced", "token") for seed in (0, 1)
    ]
    again = plan(DEMO, [f"output_root={planned[0]}", "data_root=/elsewhere"])
    assert [run.digest for run in again] == [run.digest for run in runs]
    other = plan(Grid(("cpu_demo",), ("balanced",), (0,), ("data.train_batch_size=16",)), [])
    assert other[0].name.startswith("cpu_demo.balanced-s0-")
    assert other[0].digest != runs[0].digest
    assert {"seed=1", "aggregation=token", "trainer.resume_mode=auto"} <= set(runs[3].arguments)


def test_runs_are_worked_off_a_few_at_a_time(runs, settings):
    cluster, said = Cluster(), []
    assert work_off(cluster, runs, settings, said.append) == {}
    assert sorted(cluster.jobs) == sorted(f"{run.name}.1" for run in runs)
    assert cluster.most_at_once == 2
    assert sum("succeeded" in line for line in said) == 4


def test_what_fails_is_tried_again_and_says_why(runs, settings):
    cluster, said = Cluster({f"{runs[1].name}.1": JobStatus.FAILED}), []
    assert work_off(cluster, runs, settings, said.append) == {}
    assert f"{runs[1].name}.2" in cluster.jobs
    assert f"{runs[1].name}.1  failed: error: no memory" in said
    log = settings.logs / f"{runs[1].name}.1.log"
    assert log.read_text() == f"log of {runs[1].name}.1"


def test_the_other_runs_go_on_after_the_last_attempt_of_one(runs, settings):
    ends = {f"{runs[0].name}.{number}": JobStatus.FAILED for number in (1, 2, 3)}
    cluster = Cluster(ends)
    failed = work_off(cluster, runs, settings, print)
    assert {name: last.number for name, last in failed.items()} == {runs[0].name: 2}
    assert len(cluster.jobs) == 5
    # Asked for again, it gets new attempts, and nothing else is submitted.
    assert work_off(cluster, runs, settings, print) == {}
    attempts = Counter(name.rpartition(".")[0] for name in cluster.jobs)
    assert attempts == {runs[0].name: 4} | {run.name: 1 for run in runs[1:]}


def test_a_stopped_run_is_left_until_it_is_asked_for_again(runs, settings):
    cluster = Cluster({f"{runs[2].name}.1": JobStatus.STOPPED})
    assert list(work_off(cluster, runs, settings, print)) == [runs[2].name]
    assert f"{runs[2].name}.2" not in cluster.jobs
    assert work_off(cluster, runs, settings, print) == {}
    assert f"{runs[2].name}.2" in cluster.jobs


def test_what_runs_already_is_followed_and_not_submitted(runs, settings):
    cluster = Cluster()
    ray_jobs.submit(cluster, runs[0], 1, settings)
    said = []
    assert work_off(cluster, runs[:1], settings, said.append) == {}
    assert list(cluster.jobs) == [f"{runs[0].name}.1"]
    assert "already" in said[0]


def test_what_finished_is_known_by_its_report_too(runs, settings):
    for run in runs:
        new_folder(run.folder, run.config)
        (run.folder / "summary.json").write_text("{}")
    cluster = Cluster()
    assert work_off(cluster, runs, settings, print) == {}
    assert cluster.jobs == {}


def test_a_cluster_that_forgot_its_jobs_is_told_apart_from_a_failure(runs, settings):
    class Forgetful(Cluster):
        def list_jobs(self):
            return []

    with pytest.raises(UserError, match=r"forgot cpu_demo\.balanced-s0"):
        work_off(Forgetful(), runs, settings, print)


def test_what_succeeded_is_submitted_again_if_its_outputs_are_gone(runs, settings):
    cluster = Cluster()
    work_off(cluster, runs, settings, print)
    assert len(cluster.jobs) == 4
    runs[0].folder.parents[1].mkdir()
    work_off(cluster, runs[:1], settings, print)
    assert f"{runs[0].name}.2" in cluster.jobs


def test_a_log_that_cannot_be_kept_stops_nothing(runs, settings):
    settings.logs.write_text("a file where the folder should be")
    said = []
    assert work_off(Cluster(), runs, settings, said.append) == {}
    assert sum("its log is not kept" in line for line in said) == 4


def test_a_name_with_another_config_is_refused_before_anything_is_submitted(runs, settings):
    cluster = Cluster()
    cluster.submit_job(f"{runs[3].name}.1", "", {}, {"project": PROJECT, "config": "other"})
    with pytest.raises(UserError, match="another config"):
        work_off(cluster, runs, settings, print)
    assert len(cluster.jobs) == 1


def test_a_job_has_its_command_its_wandb_run_and_a_small_package(runs, settings):
    cluster = Cluster()
    ray_jobs.submit(cluster, runs[0], 1, settings._replace(env={"HF_TOKEN": "x"}))
    ray_jobs.submit(cluster, runs[0], 2, settings)
    first, second = cluster.jobs.values()
    assert first.entrypoint.startswith("python -m recipe.main +experiment=cpu_demo aggregation=")
    env = first.runtime_env["env_vars"]
    assert env["WANDB_RUN_ID"] == second.runtime_env["env_vars"]["WANDB_RUN_ID"]
    assert env["WANDB_RUN_GROUP"] == "cpu_demo.balanced"
    [swept] = plan(Grid(("cpu_demo",), ("token",), (7,), ("experiment_name=my-sweep",)), [])
    assert re.fullmatch(r"my-sweep\.token-\w{6}", swept.env["WANDB_RUN_GROUP"])
    assert (env["WANDB_RESUME"], env["WANDB_JOB_TYPE"], env["HF_TOKEN"]) == ("allow", "train", "x")
    assert "/outputs" in first.runtime_env["excludes"]


def test_overrides_may_stand_anywhere():
    options = arguments(
        [
            "cpu_demo",
            "a.b=1",
            "--rule",
            "token",
            "balanced",
            "--seed",
            "0",
            "1",
            "c=[2,3]",
            "--dry-run",
        ]
    )
    assert options.overrides == ["a.b=1", "c=[2,3]"]
    assert (options.rule, options.seed) == (["token", "balanced"], [0, 1])
    assert options.experiment == ["cpu_demo"]


def test_every_cell_of_the_papers_table_can_be_dry_run(capsys):
    grid = Grid.read("paper_table")
    assert len(list(grid.cells())) == 4 * len(grid.rules) * 3
    cells = ["--dry-run", "--seed", "0", "--rule", *grid.rules, "--", *grid.experiments]
    assert command(arguments(cells)) == 0
    said = capsys.readouterr().out
    for experiment in grid.experiments:
        for rule in grid.rules:
            assert f"| {experiment}.{rule}-s0" in said
            assert f"+experiment={experiment} aggregation={rule} seed=0" in said
    assert f"{4 * len(grid.rules)} runs, " in said
    assert "Assumed:" in said


def test_what_cannot_be_estimated_is_planned_all_the_same(capsys):
    words = ["qwen3_1_7b_polaris", "--dry-run", "actor_rollout_ref.model.path=Own/Model"]
    assert command(arguments(words)) == 0
    said = capsys.readouterr().out
    assert re.search(r"qwen3_1_7b_polaris\.balanced-s0-\w+ .*\| +\? +\|", said)
    assert "Not estimated: actor_rollout_ref.model.path is Own/Model" in said


def test_what_cannot_be_meant_is_said_in_one_paragraph(tmp_path, monkeypatch):
    for name in submit.ADDRESSES:
        monkeypatch.delenv(name, raising=False)
    for words, found in (
        ([], "no experiment was named"),
        (["--sweep", "paper"], "there is no sweep paper; .* has cpu_demo, cpu_table, paper_table"),
        (["cpu_demo", "--sweep", "cpu_demo"], "says which experiments, rules and seeds"),
        (["cpu_dem"], "cpu_demo"),
        (["cpu_demo", "--rule", "balance"], "balanced"),
        (["cpu_demo", "trainer.total_training_step=3"], "total_training_steps"),
        (["cpu_demo", "data.train_batch_size=9"], "mini-batches"),
        (["cpu_demo"], "no cluster was named"),
        (["cpu_demo", "--address", "http://127.0.0.1:9"], "does not answer"),
        (["cpu_demo", "--env", "NOT_SET_HERE"], "NOT_SET_HERE"),
        (["--status", "--address", "http://127.0.0.1:9"], "does not answer"),
        (["--status", "--address", "127.0.0.1:6379"], "jobs go to its dashboard"),
        (["--sweep", "cpu_demo", "--rule", "token"], "says which experiments, rules and seeds"),
        (["cpu_demo", "--max-concurrent", "0"], "at least 1 run"),
        (["cpu_demo", "trainer.resume_mode=disable"], "always goes on"),
        (["cpu_demo", "trainer.default_local_dir=/ckpt"], "default_local_dir is set"),
    ):
        with pytest.raises(UserError, match=found):
            command(arguments(words))


def probe_options(*words):
    return arguments(["--probe", *words])


def test_a_probe_is_a_job_of_one_process_for_each_gpu(tmp_path):
    words = ("estimator --rules token balanced", "cpu_demo", "data.max_response_length=32")
    options = probe_options(*words, "--gpus", "2", "--output-root", str(tmp_path / "out"))
    run = submit.probe(options)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    assert run.command[:5] == [*launcher, "-m"]
    at = run.command.index("estimator")
    assert run.command[at + 1 : at + 3] == ["+experiment=cpu_demo", "data.max_response_length=32"]
    assert run.command[-5:] == ["--rules", "token", "balanced", "--out", str(run.folder)]
    assert run.folder.parent == tmp_path / "out" / "probes"
    # The job's parser reads the same.
    given = recipe.probe.parser().parse_args(run.command[at:])
    assert given.rules == ["token", "balanced"] and len(given.overrides) == 3
    assert run.config.data.max_response_length == 32
    settings = SubmitSettings(1, 0, "python", {}, tmp_path / "jobs")
    cluster = Cluster()
    assert work_off(cluster, [run], settings, print) == {}
    [job] = cluster.jobs.values()
    assert job.submission_id == f"{run.name}.1" and job.num_gpus == 2
    again = submit.probe(options)
    assert (again.name, again.digest) == (run.name, run.digest)
    other = submit.probe(probe_options(words[0] + " --seed 1", *words[1:]))
    assert other.name != run.name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["estimator", "--seed", "1"], "--probe is given beside --sweep, --rule or --seed"),
        (["estimator --out here"], "--out is given, but a job writes to --output-root"),
        (["momentum", "data.seed=1"], "Leave out the experiment, KEY=VALUE and --gpus"),
        (["momentum", "--gpus", "2"], "momentum measures the demo's small model in one process"),
        (["estimator", "cpu_demo", "smoke"], "a probe takes one experiment, not cpu_demo and"),
    ],
)
def test_what_no_probe_takes_is_refused(words, said):
    with pytest.raises(UserError, match=said):
        submit.probe(probe_options(*words))

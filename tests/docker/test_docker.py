"""Images and manifest say what the requirement files and configs say."""

import re
import shlex
import subprocess
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import pytest
import yaml
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[2]
IMAGES = ("cpu", "gpu")


def instructions(image: str) -> list[tuple[str, str]]:
    """(keyword, arguments) of each instruction of a Dockerfile, comments left out."""
    text = (ROOT / f"docker/{image}.Dockerfile").read_text()
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [(line.split()[0], " ".join(line.split()[1:])) for line in lines if line]


def arguments(image: str, keyword: str) -> list[str]:
    return [rest for found, rest in instructions(image) if found == keyword]


def pins(name: str) -> dict[str, str]:
    found = re.findall(r"^([\w.-]+)(?:\[.*\])?==(\S+)$", (ROOT / name).read_text(), re.MULTILINE)
    return {package.lower(): version for package, version in found}


def is_ignored(path: str) -> bool:
    """What Docker makes of `.dockerignore`, for the patterns that it has (none begins with !)."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    parts = PurePosixPath(path).parts
    for pattern in patterns:
        assert not pattern.startswith("!") and "/" not in pattern.removeprefix("**/")
        names = parts if pattern.startswith("**/") else parts[:1]
        if any(fnmatch(name, pattern.removeprefix("**/")) for name in names):
            return True
    return False


def tracked(*paths: str) -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *paths]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def accepted_pythons() -> list[str]:
    """The versions that scripts/install.sh accepts."""
    found = re.search(r"not in \(\((.+?)\)\)", (ROOT / "scripts/install.sh").read_text())
    assert found
    return [version.strip("() ").replace(", ", ".") for version in found[1].split("), (")]


@pytest.fixture(scope="module")
def job() -> dict:
    return yaml.safe_load((ROOT / "docker/rayjob.yaml").read_text())


@pytest.fixture(scope="module")
def nodes(job) -> list[dict]:
    """The pod spec of every node, the head's first."""
    cluster = job["spec"]["rayClusterSpec"]
    groups = [(1, cluster["headGroupSpec"])]
    groups += [(group["replicas"], group) for group in cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for replicas, group in groups for _ in range(replicas)]


@pytest.fixture(scope="module")
def config(job, composed):
    """What the job's command composes to."""
    command = shlex.split(job["spec"]["entrypoint"])
    assert command[:3] == ["python", "-m", "recipe.main"]
    overrides = command[3:]
    (experiment,) = [word for word in overrides if word.startswith("+experiment=")]
    overrides.remove(experiment)
    found = composed(*overrides, experiment=experiment.partition("=")[2])
    OmegaConf.resolve(found)
    return found


@pytest.mark.parametrize("image", IMAGES)
def test_versions_of_packages_stand_in_the_requirement_files_alone(image):
    assert "==" not in "\n".join(rest for _, rest in instructions(image))


def test_each_image_installs_its_requirements():
    runs = {image: " ".join(arguments(image, "RUN")) for image in IMAGES}
    assert re.search(
        r"-r \S+/gpu\.lock\.txt .*--no-build-isolation -r \S+/flash-attn\.txt", runs["gpu"]
    ), "flash-attn builds against the torch that is there"
    assert "scripts/install.sh" in runs["cpu"]
    # pip builds without isolation, and flash-attn's setup.py imports these.
    assert {"setuptools", "wheel"} <= set(pins("requirements/gpu.lock.txt"))
    assert set(pins("requirements/flash-attn.txt")) == {"flash-attn"}


def test_the_base_image_has_the_cuda_of_torch():
    (base,) = arguments("gpu", "FROM")
    name, cuda, kind, _ = re.split("[:-]", base)
    assert (name, kind) == ("nvidia/cuda", "devel"), "flash-attn needs nvcc"
    assert cuda == pins("requirements/gpu.lock.txt")["cuda-toolkit"]


@pytest.mark.parametrize("image", IMAGES)
def test_the_python_of_an_image_is_one_that_the_pins_are_for(image):
    said = " ".join(f"{keyword} {rest}" for keyword, rest in instructions(image))
    versions = set(re.findall(r"python:?(3\.\d+)", said))
    assert len(versions) == 1
    assert versions <= set(accepted_pythons())


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_copied_is_there(image):
    for copied in arguments(image, "COPY"):
        *sources, _ = [word for word in copied.split() if not word.startswith("--")]
        for source in sources:
            assert (ROOT / source).exists()
            assert source == "." or (tracked(source) and not is_ignored(source))


def test_the_gpu_image_holds_no_code():
    for copied in arguments("gpu", "COPY"):
        assert set(re.findall(r"\S+\.\w+", copied)) <= set(tracked("requirements"))


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_git_and_a_compiler_and_is_not_run_by_root(image):
    installed = " ".join(arguments(image, "RUN")).split()
    # `recipe.run.folder` calls git, vLLM and Triton a compiler.
    assert {"git", "g++"} <= set(installed)
    (user,) = arguments(image, "USER")
    assert int(user) > 0, "a number, so that Kubernetes sees that it is not root"
    assert installed[installed.index("--uid") + 1] == user


def test_dockerignore_leaves_what_a_run_needs_and_nothing_large():
    needed = tracked(
        "Makefile",
        "pyproject.toml",
        "requirements",
        "configs",
        "recipe",
        "reward",
        "eval",
        "scripts",
        "verl_patches",
    )
    assert "scripts/install.sh" in needed and "configs/base.yaml" in needed
    assert [name for name in needed if is_ignored(name)] == []
    for left_out in (".venv/bin/python", ".git/HEAD", "outputs/cpu_demo/x", "data/polaris.parquet"):
        assert is_ignored(left_out)
    assert is_ignored("recipe/__pycache__/main.pyc")


def test_the_job_runs_the_pinned_ray_behind_a_token(job):
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == pins("requirements/gpu.lock.txt")["ray"]
    assert cluster["authOptions"] == {"mode": "token"}


def test_the_cluster_has_the_gpus_that_the_config_takes(nodes, config):
    resources = [node["containers"][0]["resources"] for node in nodes]
    assert len(nodes) == config.trainer.nnodes
    for found in resources:
        assert found["limits"]["nvidia.com/gpu"] == config.trainer.n_gpus_per_node
        assert found["requests"] == found["limits"]


def test_every_node_has_the_shared_volume_and_shared_memory(nodes):
    for node in nodes:
        (container,) = node["containers"]
        volumes = {volume["name"]: volume for volume in node["volumes"]}
        mounted = {m["mountPath"]: volumes[m["name"]] for m in container["volumeMounts"]}
        assert mounted["/shared"]["persistentVolumeClaim"]["claimName"] == "shared"
        assert mounted["/dev/shm"]["emptyDir"]["medium"] == "Memory"


def test_nodes_run_the_gpu_image_as_its_user(nodes):
    text = (ROOT / "docker/gpu.Dockerfile").read_text()
    for node in nodes:
        assert f"--tag {node['containers'][0]['image']} ." in text
        assert node["securityContext"]["runAsNonRoot"] is True
        assert str(node["securityContext"]["fsGroup"]) == arguments("gpu", "USER")[0]


def test_what_a_job_reads_and_writes_is_on_the_shared_volume(job, nodes, config):
    package = yaml.safe_load(job["spec"]["runtimeEnvYAML"])["working_dir"]
    assert package.startswith("file:///shared/") and package.endswith(".zip")
    environment = {one["name"]: one.get("value") for one in nodes[0]["containers"][0]["env"]}
    data = [config.data.train_files, *config.data.val_files]
    for place in (config.output_root, config.data_root, environment["HF_HOME"], *data):
        assert place.startswith("/shared/")


def test_a_further_try_goes_on_where_the_last_one_was(job, config):
    assert job["spec"]["backoffLimit"] > 0
    assert config.trainer.resume_mode == "auto"
    assert config.trainer.save_freq > 0
    assert job["spec"]["shutdownAfterJobFinishes"] is True


def test_the_job_is_named_for_its_run(job, config):
    run = f"{config.experiment_name}-{config.aggregation.rule}-s{config.seed}"
    assert job["metadata"]["name"] == run.replace("_", "-")
    # KubeRay's limit.
    assert len(job["metadata"]["name"]) <= 47

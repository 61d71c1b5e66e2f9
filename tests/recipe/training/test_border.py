import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from verl.single_controller.base.worker_group import WorkerGroup
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.v1 import trainer_base
from verl.workers.engine_workers import ActorRolloutRefWorker

from recipe.base.errors import UserError
from recipe.base.paths import ROOT
from recipe.training import border

ENTRIES = [(module, entry) for module, entries in border.BORDER.items() for entry in entries]
FILES = sorted(
    path
    for folder in ("training", "objectives")
    for path in (ROOT / "recipe" / folder).rglob("*.py")
    if path.name != "border.py"
)
# Private only in name: the methods of a NamedTuple.
PYTHONS = {"_replace", "_asdict", "_fields", "_make"}


@pytest.mark.parametrize(("module", "entry"), ENTRIES, ids=[entry.name for _, entry in ENTRIES])
def test_the_installed_verl_is_as_the_list_says(module, entry):
    assert border.difference(module, entry) is None
    assert entry.reason


def test_the_installed_verl_passes():
    border.check()


def test_a_worker_that_was_made_an_actor_passes():
    """Ray writes `_ray_trace_ctx` into the signatures of its methods, inherited ones included."""
    ray.remote(type("Worker", (ActorRolloutRefWorker,), {}))
    assert "_ray_trace_ctx" in inspect.signature(ActorRolloutRefWorker.set_loss_fn).parameters
    border.check()


def a_changed_method(self, batch, metrics):
    return batch


def without_dispatch_info(self):
    self.world_size = 1


@pytest.mark.parametrize(
    ("owner", "name", "replacement", "message"),
    [
        (
            trainer_base.PPOTrainer,
            "_update_actor",
            a_changed_method,
            "PPOTrainer._update_actor has changed",
        ),
        (trainer_base, "TRAINER_REGISTRY", None, "trainer_base.TRAINER_REGISTRY is missing"),
        (
            core_algos,
            "get_policy_loss_fn",
            lambda mode: None,
            r"core_algos.get_policy_loss_fn takes the parameters \(mode\), expected \(name\)",
        ),
        (
            WorkerGroup,
            "__init__",
            without_dispatch_info,
            r"WorkerGroup.__init__ no longer uses self._dispatch_info",
        ),
    ],
    ids=["changed method", "missing attribute", "other parameters", "attribute no longer set"],
)
def test_a_difference_is_refused_by_name(monkeypatch, owner, name, replacement, message):
    if replacement is None:
        monkeypatch.delattr(owner, name)
    else:
        monkeypatch.setattr(owner, name, replacement)
    with pytest.raises(UserError, match=message) as error:
        border.check()
    assert str(error.value).count("verl.") == 1


def test_one_message_lists_every_difference_and_what_to_do(monkeypatch):
    monkeypatch.setattr(border, "version", lambda name: "9.9.9")
    monkeypatch.setattr(trainer_base.PPOTrainer, "_update_actor", a_changed_method)
    monkeypatch.delattr(trainer_base, "TRAINER_REGISTRY")
    with pytest.raises(UserError) as error:
        border.check()
    message = str(error.value)
    assert "\n" not in message
    for part in (
        "its version is 9.9.9, expected 0.9.1",
        "PPOTrainer._update_actor",
        "TRAINER_REGISTRY",
        "Install verl==0.9.1",
        "recipe/training/border.py",
    ):
        assert part in message


def test_a_module_that_is_gone_is_refused(monkeypatch):
    entries = {"verl.no_such_module": (border.Expected("anything", "a reason"),)}
    monkeypatch.setattr(border, "BORDER", entries)
    with pytest.raises(UserError, match=r"verl.no_such_module.anything is missing \(a reason\)"):
        border.check()


def overridden(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the module and the name of each method of verl that a class of a file overrides."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for found in vars(importlib.import_module(name)).values():
        found = getattr(found, "__ray_actor_class__", found)
        if not isinstance(found, type) or found.__module__ != name:
            continue
        bases = [base for base in found.__mro__[1:] if base.__module__.startswith("verl.")]
        for method in vars(found):
            if method.startswith("__") or method == "_abc_impl":
                continue
            nearest = next((base for base in bases if method in vars(base)), None)
            if nearest:
                yield nearest.__module__, method


def private(path: Path) -> Iterator[str]:
    """Yield the private names and registries that a file reads and no file here defines."""
    standard = PYTHONS | set(dir(type)) | set(dir(private))
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Attribute(attr=name) | ast.alias(name=name) | ast.Name(id=name):
                if re.fullmatch(r"_\w+|[A-Z_]+_REGISTRY", name) and name not in standard:
                    yield name
            case ast.Constant(value=str(text)):
                if re.fullmatch(r"__\w+__", text) and text not in standard | {"__main__"}:
                    yield text


def defined(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                yield name
            case ast.Attribute(attr=name, ctx=ast.Store()) | ast.Name(id=name, ctx=ast.Store()):
                yield name


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_method_of_verl_that_is_overridden_is_on_the_list(path):
    for module, method in overridden(path):
        listed = {entry.name.rpartition(".")[2] for entry in border.BORDER.get(module, ())}
        assert method in listed, f"{path.name} overrides {method} of {module}; add it to BORDER"


def test_the_overrides_are_found():
    """So that the test above cannot pass by finding none."""
    found = {method for path in FILES for _, method in overridden(path)}
    assert {"_update_actor", "_save_checkpoint", "train_batch", "run", "on_init_end"} <= found


def test_every_private_name_and_registry_of_verl_that_is_read_is_on_the_list():
    listed = {
        word
        for _, entry in ENTRIES
        for text in (entry.name, *entry.mentions)
        for word in re.findall(r"\w+", text)
    }
    own = {name for path in FILES for name in defined(path)}
    read = {name for path in FILES for name in private(path)} - own
    assert {"_dispatch_info", "__ray_actor_class__", "__rollout_n__", "TRAINER_REGISTRY"} <= read
    assert read <= listed, f"add {read - listed} to BORDER"

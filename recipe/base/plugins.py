"""Find a class by the name of the file that defines it."""

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


def names(package: ModuleType) -> list[str]:
    """Return the names of a package's files, without `base` and sub-packages."""
    found = iter_modules([str(Path(path)) for path in package.__path__])
    return sorted(m.name for m in found if m.name != "base" and not m.ispkg)


def find(package: ModuleType, name: str, base: type[T]) -> type[T]:
    """Return the subclass of `base` that the file `name` of a package defines.

    Raises:
        KeyError: there is no such file.
        TypeError: the file does not define exactly one subclass.
    """
    if name not in names(package):
        raise KeyError(name)
    module = import_module(f"{package.__name__}.{name}")
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type)]
    found = [k for k in kinds if issubclass(k, base) and k.__module__ == module.__name__]
    if len(found) != 1:
        raise TypeError(f"{module.__file__} must define one {base.__name__}, not {len(found)}")
    return found[0]

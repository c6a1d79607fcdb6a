"""Pre-training objectives, one file each. There is no registry: a file in this folder is an objective.

The exceptions are `base`, which all of them share; `one_pass`, `autoencoder` and `contrast`, for those that encode
once, rebuild a passage or compare rows; and `unified`, stage 2 of the unified framework: it takes another along while
an encoder is fine-tuned on pairs, and so is no objective for token rows itself.
An objective may also live outside the package: `load("my_package.my_objective")` or `load("./my_objective.py")`.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

from retromae.core.errors import UserError
from retromae.objectives.base import Batch, Drawn, Objective, Vocabulary

_NO_OBJECTIVES = ("base", "one_pass", "autoencoder", "contrast", "unified")

__all__ = ["Batch", "Drawn", "Objective", "Vocabulary", "available", "load"]


def available() -> list[str]:
    """The names of the objectives in this package."""
    return sorted(
        module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NO_OBJECTIVES
    )


def load(name: str) -> type[Objective]:
    """The objective class in the file `name` of this folder, or in a dotted module or .py file elsewhere."""
    module = _module(name)
    classes = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Objective) and value.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise UserError(f"'{name}' must define exactly one Objective; it defines {len(classes)}.")
    return classes[0]


def _module(name: str) -> ModuleType:
    if name in available():
        return importlib.import_module(f"{__name__}.{name}")
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"There is no file '{name}' to load an objective from.")
        spec = importlib.util.spec_from_file_location(f"retromae_objective_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module
    if "." in name:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            pass
    raise UserError(
        f"Unknown objective '{name}'; known are {', '.join(available())}, "
        "or give a .py file or an importable module that defines one."
    )

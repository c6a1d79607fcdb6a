"""Settings: a dataclass ⇄ YAML ⇄ command-line flags.

A room keeps its settings in a plain dataclass beside its code; each field carries its help text. This module reads
such dataclasses from mappings and YAML files, strictly: an unknown key or a value of the wrong type is refused with
one sentence. The same fields become the flags of the command line, so nothing is written down twice.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from retromae.core.errors import UserError
from retromae.core.files import write_text

T = TypeVar("T")


def setting(default: Any, help: str) -> Any:
    """A dataclass field with its help text; a list or dict default is copied for every instance."""
    metadata = {"help": help}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Option:
    """One field as the outside sees it."""

    name: str
    kind: type  # str, int, float or bool
    default: Any
    help: str
    many: bool = False  # a list of `kind`
    optional: bool = False  # None is allowed
    choices: tuple[str, ...] = ()

    def read(self, value: Any, where: str) -> Any:
        """`value` as this option's type, or a UserError that says what was expected."""
        if value is None:
            if self.optional:
                return None
            raise UserError(f"{where}: '{self.name}' needs a value ({self._expected()}).")
        if self.many:
            items = [value] if isinstance(value, str) else value
            if not isinstance(items, list | tuple):
                raise UserError(f"{where}: '{self.name}' is a list of {self.kind.__name__}, not {value!r}.")
            return [self._read_one(item, where) for item in items]
        return self._read_one(value, where)

    def _read_one(self, value: Any, where: str) -> Any:
        try:
            converted = _convert(value, self.kind)
        except (TypeError, ValueError):
            raise UserError(f"{where}: '{self.name}' is {value!r}, but must be {self._expected()}.") from None
        if self.choices and converted not in self.choices:
            raise UserError(f"{where}: '{self.name}' is {value!r}, but must be {self._expected()}.")
        return converted

    def _expected(self) -> str:
        names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
        return "one of " + ", ".join(self.choices) if self.choices else names[self.kind]


def _convert(value: Any, kind: type) -> Any:
    if kind is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "yes", "1", "on"):
            return True
        if str(value).lower() in ("false", "no", "0", "off"):
            return False
        raise ValueError
    if kind is int:
        if isinstance(value, bool) or (isinstance(value, float) and value != int(value)):
            raise ValueError
        return int(str(value).replace("_", "")) if isinstance(value, str) else int(value)
    if kind is float:
        if isinstance(value, bool):
            raise ValueError
        return float(value)  # YAML reads 1e-4 as text; float() does not mind
    if isinstance(value, bool | int | float | str | Path):
        return str(value)
    raise TypeError


def options(cls: type) -> list[Option]:
    """The fields of a settings dataclass, in order."""
    hints = typing.get_type_hints(cls)
    return [_option(field, hints[field.name]) for field in dataclasses.fields(cls) if field.init]


def _option(field: dataclasses.Field[Any], hint: Any) -> Option:
    optional = many = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [part for part in typing.get_args(hint) if part is not type(None)]
        optional, hint = True, inner[0]
    if typing.get_origin(hint) is list:
        many, hint = True, typing.get_args(hint)[0]
    choices: tuple[str, ...] = ()
    if typing.get_origin(hint) is Literal:
        choices, hint = typing.get_args(hint), str
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    if default is dataclasses.MISSING:
        default = None
    return Option(field.name, hint, default, field.metadata.get("help", ""), many, optional, choices)


def unknown_key(key: str, known: Iterable[str], where: str) -> UserError:
    names = sorted(known)
    near = difflib.get_close_matches(key, names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "known are: " + ", ".join(names) + "."
    return UserError(f"{where}: unknown setting '{key}'; {hint}")


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "settings") -> T:
    """An instance of a settings dataclass. Unknown keys fail, values are converted and checked."""
    known = {option.name: option for option in options(cls)}
    read: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise unknown_key(name, known, where)
        read[name] = known[name].read(value, where)
    required = [
        field.name
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]
        if field.init
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in read]
    if missing:
        raise UserError(f"{where}: missing setting{'s' * (len(missing) > 1)}: {', '.join(missing)}.")
    return cls(**read)


def to_dict(config: Any) -> dict[str, Any]:
    return dataclasses.asdict(config)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file that holds one mapping of settings; hyphens in keys are read as underscores."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no settings file '{path}'.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        place = getattr(error, "problem_mark", None)
        line = f", line {place.line + 1}" if place else ""
        raise UserError(f"'{path}'{line} is not valid YAML; mend it and try again.") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"'{path}' must hold settings as 'name: value' lines.")
    return {str(key).replace("-", "_"): value for key, value in content.items()}


def read_recipe(path: str | Path) -> dict[str, Any]:
    """A YAML file that may say `like: another.yaml`, beside it: what it does not say itself is as there.

    The settings of a section are taken over one by one; lists, and the sections named in `WHOLE`, as they are. A null
    takes out what the other says.
    """
    return _read_recipe(Path(path), ())


WHOLE = ("start", "published")


def _read_recipe(path: Path, from_: tuple[Path, ...]) -> dict[str, Any]:
    values = read_yaml(path)
    if (like := values.pop("like", None)) is None:
        return values
    other = path.parent / str(like)
    if other.resolve() in {seen.resolve() for seen in (*from_, path)}:
        raise UserError(f"'{path}' is like '{like}', which is like itself; take one `like` out.")
    if not other.is_file():
        raise UserError(f"'{path}' is like '{like}', but there is no file '{other}'.")
    return _over(_read_recipe(other, (*from_, path)), values)


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = {**below, **above}
    for name in below.keys() & above.keys() - set(WHOLE):
        if isinstance(below[name], dict) and isinstance(above[name], dict):
            merged[name] = _over(below[name], above[name])
    return {name: value for name, value in merged.items() if value is not None}


def to_yaml(values: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)


def fingerprint(inputs: Any) -> str:
    """What tells whether inputs are the same as before: of values that JSON can hold, and of others by their text."""
    text = json.dumps(inputs, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_yaml(path: str | Path, values: Mapping[str, Any]) -> None:
    write_text(path, to_yaml(values))

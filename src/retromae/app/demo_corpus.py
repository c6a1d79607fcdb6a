"""A corpus that every machine has: the documentation strings of the installed Python and its packages.

Read from source files by `ast`: nothing is imported, nothing is copied into this repository. A document is one
module, class or function that says more than one line:

    _id    module/Class.name
    title  its first paragraph, without the object's own name
    text   the rest

The title asks for the text, which is what `adapt` makes of every document with a title of its own.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from retromae.core.errors import UserError
from retromae.core.files import replacing

# Packages that explain themselves and come with this one; others that are installed follow by name until there
# are enough documents.
_FIRST = ("numpy", "scipy", "sklearn", "matplotlib", "pandas", "networkx", "datasets", "huggingface_hub")
_NOT = re.compile(
    r"(^|[/.])(tests?|testing|_?vendor|_vendored|idlelib|lib2to3|turtledemo|site-packages)([/.]|$)"
)
_LEAST_WORDS = 3, 12  # of a title, of a text
_MOST_WORDS = 40, 45
_LARGEST = 400_000  # bytes of a file: larger ones are generated


@dataclass(frozen=True, slots=True)
class Docstring:
    """One object's documentation."""

    module: str
    name: str
    title: str
    text: str


def write_docstrings(path: str | Path, most: int) -> int:
    """Write a JSONL file of at most so many documents; the same machine always gives the same."""
    seen: set[str] = set()
    number = 0
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        for found in installed():
            if number >= most:
                break
            if found.text in seen:  # inherited, or documented twice
                continue
            seen.add(found.text)
            row = {"_id": f"{found.module}/{found.name}", "title": found.title, "text": found.text}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            number += 1
        if not number:
            raise UserError(
                "no documentation strings are installed here; name a folder with `retromae adapt`."
            )
    return number


def installed() -> Iterator[Docstring]:
    """The standard library first, then packages."""
    library = Path(sysconfig.get_path("stdlib"))
    packages = Path(sysconfig.get_path("purelib"))
    named = [packages / name for name in _FIRST if (packages / name).is_dir()]
    others = sorted(
        path for path in packages.iterdir() if (path / "__init__.py").is_file() and path.name not in _FIRST
    )
    for root, folder in chain([(library, library)], ((packages, path) for path in [*named, *others])):
        for file in _files(folder):
            relative = file.relative_to(root)
            module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
            if not _NOT.search(relative.as_posix()):
                yield from of_file(file, module)


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith((".", "__")) and not _NOT.search(name)
        )
        yield from (Path(parent, name) for name in sorted(files) if name.endswith(".py"))


def of_file(file: Path, module: str) -> Iterator[Docstring]:
    """What the objects of one source file say; nothing where it cannot be read."""
    try:
        if file.stat().st_size > _LARGEST:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in other people's strings
            tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    yield from _of_nodes(tree, module, "")


def _of_nodes(node: ast.AST, module: str, prefix: str) -> Iterator[Docstring]:
    name = getattr(node, "name", module.rpartition(".")[2])
    whole = f"{prefix}{name}" if prefix or not isinstance(node, ast.Module) else "module"
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        if (said := ast.get_docstring(node)) and (document := document_of(module, whole, name, said)):
            yield document
        inner = f"{whole}." if isinstance(node, ast.ClassDef) else ""
        if isinstance(node, ast.Module | ast.ClassDef):
            for child in node.body:
                if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    yield from _of_nodes(child, module, inner)


def document_of(module: str, whole: str, name: str, said: str) -> Docstring | None:
    """First paragraph and rest, where both say enough."""
    first, _, rest = inspect.cleandoc(said).partition("\n\n")
    title = " ".join(_without(first, name).split())
    text = rest.strip()
    if text.startswith((">>>", ".. ")):
        return None
    if not _LEAST_WORDS[0] <= len(title.split()) <= _MOST_WORDS[0] or len(text.split()) < _LEAST_WORDS[1]:
        return None
    words = re.split(r"(?<=\s)(?=\S)", text)
    return Docstring(module, whole, title, "".join(words[: _MOST_WORDS[1]]).strip())


def _without(text: str, name: str) -> str:
    """The text without an object's own name, and without what a signature leaves: "f(x) -> y"."""
    bare = re.escape(name.strip("_")) or r"\Z"
    text = re.sub(rf"^\s*[\w.]*{bare}\([^)]*\)\s*(->\s*\S+)?\s*[:.-]*", " ", text)
    return (
        re.sub(rf"(?i)(?<![A-Za-z0-9])_*{bare}_*(\(\))?(?![A-Za-z0-9])", " ", text).strip(" .:-–`\"'") or ""
    )

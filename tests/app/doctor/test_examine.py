"""The whole examination, through the library and as a person types it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from app.command_line import CommandLine, write_set
from app.doctor.patients import GREEK, SMALL, make_embedder, write_text
from retromae.app.choice import Choice
from retromae.app.doctor import examine as module
from retromae.app.doctor import machine as machines
from retromae.app.doctor.examine import Examination, examine
from retromae.app.doctor.page import show

Folder = Callable[[str], Path]


def look(source: Path, model: Path | None, **more: object) -> Examination:
    return examine(
        [str(source)],
        str(model) if model else None,
        settings=SMALL,
        measuring=0.15,
        **more,  # type: ignore[arg-type]
    )


def page(examination: Examination) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    show(examination, console)
    return console.export_text()


def test_an_embedder(tiny_folder: Folder, tmp_path: Path) -> None:
    base = make_embedder(tiny_folder("bert"), tmp_path / "base")
    before = sorted(path for path in tmp_path.rglob("*"))
    found = look(write_text(tmp_path / "a.jsonl", 120), base, minutes=5.0, output_dir=str(tmp_path / "runs"))
    assert (found.corpus.documents, found.base.kind) == (120, "embedder")
    assert [stage.name for stage in found.forecast.stages] == ["training on pairs"]
    assert found.forecast.training_share and found.forecast.budget_seconds == 300
    assert found.passages.number > 200 and found.choice is None
    assert sorted(p for p in tmp_path.rglob("*") if p.name != "a.jsonl") == before  # nothing is written
    text = page(found)
    for words in (
        "120 documents",
        "English 100%",
        "embedder: modules.json",
        "What it will take",
        "5 min: room",
    ):
        assert words in text, words
    assert "What I would do" not in text


@pytest.mark.parametrize("family", ["bert", None])
def test_a_masked_language_model_and_nothing(tiny_folder: Folder, tmp_path: Path, family: str | None) -> None:
    found = look(write_text(tmp_path / "a.jsonl"), tiny_folder(family) if family else None)
    assert found.base.kind == ("masked language model" if family else "nothing")
    assert [stage.name for stage in found.forecast.stages] == ["pre-training (RetroMAE)", "training on pairs"]
    assert found.forecast.training_share is None


def test_the_choice_is_shown_with_its_command(tmp_path: Path) -> None:
    def choose(found: Examination) -> Choice:
        return Choice(
            [f"{found.corpus.documents} documents are enough."], ["retromae", "adapt", "'my texts'"]
        )

    text = page(look(write_text(tmp_path / "a.jsonl"), None, choose=choose))
    assert "60 documents are enough." in text and "retromae adapt 'my texts'" in text


def test_ten_documents_are_too_few(tmp_path: Path) -> None:
    found = look(write_text(tmp_path / "a.jsonl", 10), None)
    assert "too few to learn from" in found.remarks[0] and "200 passages at least" in found.remarks[0]


def test_one_document_is_enough_of_one(tmp_path: Path) -> None:
    """One long document: as many passages as its text gives."""
    write_text(tmp_path / "a.jsonl", 300)
    texts = [json.loads(line)["text"] for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    (tmp_path / "long.txt").write_text("\n".join(texts))
    found = look(tmp_path / "long.txt", None)
    assert found.corpus.documents == 1 and found.passages.number > 300
    assert not any("too few" in remark for remark in found.remarks)
    assert any("whole documents are held out" in remark for remark in found.remarks)


def test_a_foreign_script(tiny_folder: Folder, tmp_path: Path) -> None:
    for n in range(60):
        (tmp_path / f"{n}.txt").write_text(f"{GREEK}. " * 3 + str(n))
    found = look(tmp_path, tiny_folder("bert"))
    assert found.fit.verdict == "does not fit" and found.fit.unknown_share > 0.5
    assert any("was not made for this language" in remark for remark in found.remarks)
    assert found.corpus.languages[0].language == "Greek"


def test_copies_lines_markup_and_broken_files(tmp_path: Path) -> None:
    write_text(tmp_path / "a.jsonl", 200)
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    rows = [{**row, "text": f"Home | About us\n<p>{row['text']}"} for row in rows]
    rows += [{**row, "_id": f"again{n}"} for n, row in enumerate(rows[:40])]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    remarks = "\n".join(look(tmp_path, None).remarks)
    for words in ("word for word copies", "Home | About us", "HTML tags", "1 × "):
        assert words in remarks, words


def test_a_full_disk_and_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_text(tmp_path / "a.jsonl")
    monkeypatch.setattr(machines, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert any("make room" in remark for remark in look(source, None).remarks)
    monkeypatch.setattr(machines, "_memory", lambda: (10**9, 10**6))
    found = look(source, None, choose=lambda _: pytest.fail("there is nothing to go by"))
    assert (
        found.forecast.encoding is None
        and found.choice is None
        and any("nothing was measured" in remark for remark in found.remarks)
    )
    assert "not measured" in page(found)


def test_a_small_budget(tmp_path: Path) -> None:
    source = write_text(tmp_path / "a.jsonl")
    assert any("more time, or less text" in remark for remark in look(source, None, minutes=1e-6).remarks)


def test_the_verb(retromae: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_set(tmp_path / "a set", split="train")
    monkeypatch.setattr(module, "examine", partial(examine, measuring=0.15))
    words = ("--minutes", 7, "--pairs", folder, "--json", tmp_path / "facts.json")
    out = retromae.well("doctor", folder, "--from_scratch", *words)
    assert "24 documents in 1 file" in out and "8 train" in out and "too few to learn from" in out
    command = out.split("The command")[1].strip().splitlines()[0]
    assert shlex.split(command)[:3] == ["retromae", "adapt", str(folder)] and "--from_scratch" in command
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["corpus"]["documents"] == 24 and facts["pairs"]["queries"] == {"train": 8}
    assert facts["base"]["kind"] == "nothing" and shlex.join(shlex.split(command)) == command
    assert facts["choice"]["reasons"] and facts["forecast"]["budget_seconds"] == 420


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "there is no file in"),
        (lambda folder: (folder / "a.png").write_bytes(b"\x89PNG"), "files .png are not read"),
        (lambda folder: (folder / "a.txt").write_text(" \n"), "the file is empty"),
    ],
)
def test_nothing_to_read(
    retromae: CommandLine, tmp_path: Path, make: Callable[[Path], object], words: str
) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    make(folder)
    done = retromae("doctor", folder, "--from_scratch", "--json", tmp_path / "facts.json")
    assert done.code == 2 and words in done.err and len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "facts.json").exists()


def test_what_is_named_must_be_there(retromae: CommandLine, tmp_path: Path) -> None:
    source = write_text(tmp_path / "a.jsonl", 3)
    for words, sentence in (
        (("doctor", source, "--model_name_or_path", tmp_path / "gone"), "there is no folder"),
        (("doctor", source, "--from_scratch", "--pairs", tmp_path / "gone"), "there is no"),
        (("doctor", tmp_path / "gone", "--from_scratch"), "does not exist"),
        (("doctor", source, "--from_scratch", "--minutes", 0), "minutes must be at least"),
    ):
        done = retromae(*words)
        assert done.code == 2 and sentence in done.err, done

"""Classification tasks on disk: SentEval's files as published, or one `cls.tsv`.

| task | files |
|---|---|
| MR | `rt-polarity.pos`, `rt-polarity.neg` |
| CR | `custrev.pos`, `custrev.neg` |
| SUBJ | `subj.objective`, `subj.subjective` |
| MPQA | `mpqa.pos`, `mpqa.neg` |
| SST2 | `sentiment-train`, `sentiment-dev`, `sentiment-test` |
| TREC | `train_5500.label`, `TREC_10.label` |
| MRPC | `msr_paraphrase_train.txt`, `msr_paraphrase_test.txt` |
| any | `cls.tsv` with the columns split (train, dev, test), label, text |

As SentEval does: the older files are Latin-1, and words are set apart by single spaces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from retromae.core.errors import UserError
from retromae.evaluation.vectors import read_columns, read_lines


@dataclass(frozen=True)
class Examples:
    """Labelled texts, or labelled pairs of texts where `second` is given."""

    labels: list[str]
    first: list[str]
    second: list[str] | None = None


@dataclass(frozen=True)
class Task:
    """Without `test` the examples are cross-validated; with `dev` it chooses the regularisation."""

    name: str
    train: Examples
    dev: Examples | None = None
    test: Examples | None = None


# Task → (files of the examples labelled 1, of those labelled 0).
_BINARY = {
    "MR": ("rt-polarity.pos", "rt-polarity.neg"),
    "CR": ("custrev.pos", "custrev.neg"),
    "SUBJ": ("subj.objective", "subj.subjective"),
    "MPQA": ("mpqa.pos", "mpqa.neg"),
}


def read_task(folder: str | Path) -> Task:
    """Read whichever task the folder holds; the file names tell."""
    folder = Path(folder)
    if (folder / "cls.tsv").is_file():
        return _table(folder)
    for name, (one, zero) in _BINARY.items():
        if (folder / one).is_file():
            return Task(name, _binary(folder / one, folder / zero))
    for first, read in _PUBLISHED.items():
        if (folder / first).is_file():
            return read(folder)
    known = ", ".join(["cls.tsv", *(files[0] for files in _BINARY.values()), *_PUBLISHED])
    raise UserError(f"{folder} holds no classification task: expected one of {known}.")


def _examples(rows: Iterable[tuple[str, ...]], path: Path) -> Examples:
    """From (label, text) or (label, text, text)."""
    cleaned = [(label, *(" ".join(text.split()) for text in texts)) for label, *texts in rows]
    if not cleaned:
        raise UserError(f"{path} holds no example.")
    labels, first, *second = zip(*cleaned)
    return Examples(list(labels), list(first), list(second[0]) if second else None)


def _binary(one: Path, zero: Path) -> Examples:
    rows = [
        (label, line) for label, path in (("1", one), ("0", zero)) for line in read_lines(path, "latin-1")
    ]
    return _examples(rows, one)


def _table(folder: Path) -> Task:
    path = folder / "cls.tsv"
    splits: dict[str, list[tuple[str, str]]] = {}
    for split, label, text, *_ in read_columns(path, 3, header=True):
        splits.setdefault(split, []).append((label, text))
    strangers = sorted(splits.keys() - {"train", "dev", "test"})
    if strangers or "train" not in splits:
        raise UserError(f"{path} needs the splits train, and possibly dev and test; it has {sorted(splits)}.")
    if "dev" in splits and "test" not in splits:
        raise UserError(f"{path} has a dev split and no test split; name the rows to be tested on `test`.")
    parts = {split: _examples(rows, path) for split, rows in splits.items()}
    return Task(folder.name, parts["train"], parts.get("dev"), parts.get("test"))


def _sst2(folder: Path) -> Task:
    def part(split: str) -> Examples:
        path = folder / f"sentiment-{split}"
        return _examples(((row[1], row[0]) for row in read_columns(path, 2, header=False)), path)

    return Task("SST2", part("train"), part("dev"), part("test"))


def _trec(folder: Path) -> Task:
    def part(name: str) -> Examples:
        path = folder / name
        rows = []
        for line in read_lines(path, "latin-1"):
            label, colon, rest = line.partition(":")
            if not colon:
                raise UserError(f"{path} has a line that is not `LABEL:kind question`: {line[:80]!r}.")
            rows.append((label, rest.partition(" ")[2]))
        return _examples(rows, path)

    return Task("TREC", part("train_5500.label"), test=part("TREC_10.label"))


def _mrpc(folder: Path) -> Task:
    def part(split: str) -> Examples:
        path = folder / f"msr_paraphrase_{split}.txt"
        return _examples(((row[0], row[3], row[4]) for row in read_columns(path, 5, header=True)), path)

    return Task("MRPC", part("train"), test=part("test"))


_PUBLISHED: dict[str, Callable[[Path], Task]] = {
    "sentiment-train": _sst2,
    "train_5500.label": _trec,
    "msr_paraphrase_train.txt": _mrpc,
}

"""How publishers lay retrieval collections out on disk: BEIR, MS MARCO and DPR. `collections` describes them."""

from __future__ import annotations

import ast
import csv
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from retromae.core.errors import UserError
from retromae.text.lines import lines_of
from retromae.text.problems import Problem
from retromae.text.sources import LINE_LIMIT, Document

Qrels = dict[str, dict[str, int]]
# (reader of the corpus, query texts, judgements, answer strings)
Parts = tuple[Callable[[], Iterator[Document]], dict[str, str], Qrels, dict[str, list[str]]]


def corpus_reader(folder: str | Path) -> Callable[[], Iterator[Document]] | None:
    """The corpus alone of a folder in one of the layouts, read anew at every call; None for another folder."""
    found = _layout_of(Path(folder))
    return None if found is None else partial(_READERS[found], need_file(Path(folder), found))


def _layout_of(folder: Path) -> str | None:
    """The name of the corpus' file, by which a layout is known."""
    return next((name for name in _FILES if _find(folder, name)), None)


def _known_layout(folder: Path) -> str:
    found = _layout_of(folder)
    if found is None:
        raise UserError(
            f"{folder} holds no collection: expected corpus.jsonl (BEIR), collection.tsv (MS MARCO) or "
            "psgs_w100.tsv (DPR), plain or .gz."
        )
    return found


def layout(folder: Path) -> Callable[[Path, str], Parts]:
    """What reads this folder: (folder, split) → its parts."""
    return _LAYOUTS[_known_layout(folder)]


def files_of(folder: Path, split: str) -> list[Path]:
    """The files that a split is read from: the corpus, then the queries, then the judgements if it has any."""
    corpus = _known_layout(folder)
    return [need_file(folder, name.format(split=split)) for name in (corpus, *_FILES[corpus])]


def _beir_corpus(path: Path) -> Iterator[Document]:
    for number, row in _json_lines(path):
        text = row.get("text")
        if not isinstance(text, str):
            raise UserError(f"{path}:{number}: the document has no text; expected a field `text`.")
        yield _document(_id(row, path, number), str(row.get("title") or ""), text, path, number)


def _marco_corpus(path: Path) -> Iterator[Document]:
    for number, identifier, text in _tsv_pairs(path):
        if not identifier:
            raise UserError(f"{path}:{number}: the document has no id.")
        yield _document(identifier, "", text, path, number)


def _dpr_corpus(path: Path) -> Iterator[Document]:
    for number, row in _csv_rows(path):
        if row[:1] != ["id"]:
            if len(row) < 3 or not row[0]:
                raise UserError(f"{path}: row {number} is not an id, a text and a title.")
            yield _document(row[0], row[2], row[1], path, number)


def _document(identifier: str, title: str, text: str, path: Path, number: int) -> Document:
    refuse_surrogates(f"{identifier}{title}{text}", f"{path}:{number}", "document")
    return Document(identifier, title, text, str(path), number)


def refuse_surrogates(text: str, where: str, what: str) -> None:
    """JSON can spell \\ud800, which no tokenizer and no file takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{where}: the {what} holds half a surrogate pair, which is no character; remove it."
        ) from None


def _beir(folder: Path, split: str) -> Parts:
    corpus, listing, judged = files_of(folder, split)
    qrels = read_qrels(judged)
    texts: dict[str, str] = {}
    answers: dict[str, list[str]] = {}
    for number, row in _json_lines(listing):
        query = _id(row, listing, number)
        _add_query(texts, query, str(row.get("text") or ""), listing, number)
        found = row.get("answers")
        if found:
            answers[query] = [found] if isinstance(found, str) else [str(answer) for answer in found]
    return partial(_beir_corpus, corpus), texts, qrels, answers


def _marco(folder: Path, split: str) -> Parts:
    corpus, listing, judged = files_of(folder, split)
    return partial(_marco_corpus, corpus), read_queries(listing), read_qrels(judged), {}


def read_queries(listing: Path) -> dict[str, str]:
    """Query texts as MS MARCO ships them: an id, a tab, the text."""
    texts: dict[str, str] = {}
    for number, query, text in _tsv_pairs(listing):
        _add_query(texts, query, text, listing, number)
    return texts


def _dpr(folder: Path, split: str) -> Parts:
    corpus, listing = files_of(folder, split)
    texts: dict[str, str] = {}
    answers: dict[str, list[str]] = {}
    for number, row in _csv_rows(listing):
        try:
            question, listed = row
            answers[str(number)] = [str(answer) for answer in ast.literal_eval(listed)]
        except (ValueError, SyntaxError, TypeError):
            raise UserError(f"{listing}: row {number} is not a question and a list of answers.") from None
        texts[str(number)] = question
    return partial(_dpr_corpus, corpus), texts, {}, answers


# What a layout has beside its corpus, by the name of the corpus' file
_FILES = {
    "corpus.jsonl": ("queries.jsonl", "qrels/{split}.tsv"),
    "collection.tsv": ("queries.{split}.tsv", "qrels.{split}.tsv"),
    "psgs_w100.tsv": ("nq-{split}.qa.csv",),
}
_READERS = {"corpus.jsonl": _beir_corpus, "collection.tsv": _marco_corpus, "psgs_w100.tsv": _dpr_corpus}
_LAYOUTS = {"corpus.jsonl": _beir, "collection.tsv": _marco, "psgs_w100.tsv": _dpr}


def _add_query(texts: dict[str, str], query: str, text: str, listing: Path, number: int) -> None:
    if query in texts:
        raise UserError(f"{listing}:{number}: the query id {query!r} occurs twice; ids must be unique.")
    refuse_surrogates(f"{query}{text}", f"{listing}:{number}", "query")
    texts[query] = text


# Files


def read_qrels(path: str | Path) -> Qrels:
    """Judgements with three columns (BEIR: query, document, grade) or four (TREC: query, 0, document, grade).

    A header line is skipped. Columns are separated by tabs, or by any white space where a line has no tab.
    """
    qrels: Qrels = {}
    for number, line in numbered_lines(Path(path)):
        columns = line.split("\t") if "\t" in line else line.split()
        if not columns:
            continue
        fits = len(columns) in (3, 4)
        if fits and _is_integer(columns[-1]):
            query, document, grade = columns[0], columns[-2], int(columns[-1])
            if qrels.setdefault(query, {}).setdefault(document, grade) != grade:
                raise UserError(f"{path}:{number}: this gives {query!r}, {document!r} a second grade.")
        elif not (fits and number == 1):
            raise UserError(f"{path}:{number}: this is not `query, document, grade`: {line[:80]!r}.")
    if not qrels:
        raise UserError(f"{path} holds no judgement.")
    return qrels


def _is_integer(text: str) -> bool:
    return text.strip().removeprefix("-").isdecimal()


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def need_file(folder: Path, name: str) -> Path:
    """The file, plain or gzip; if there is none, the refusal names what lies beside it."""
    found = _find(folder, name)
    if found:
        return found
    siblings = sorted(path.name for path in (folder / name).parent.glob("*.?sv*"))
    beside = f"; beside it there are {', '.join(siblings)}" if siblings else ""
    raise UserError(f"there is no {folder / name}{beside}.")


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of a UTF-8 file, plain or gzip; the first that cannot be read is refused."""
    for number, line in lines_of(path, LINE_LIMIT):
        if isinstance(line, Problem):
            raise UserError(str(line))
        yield number, line


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in numbered_lines(path):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number}: this is not JSON ({error}).") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}:{number}: this is not a JSON object.")
            yield number, row


def _id(row: dict[str, Any], path: Path, number: int) -> str:
    found = row.get("_id", row.get("id"))
    if found is None or found == "":
        raise UserError(f"{path}:{number}: there is no id; expected a field `_id`.")
    return str(found)


def _tsv_pairs(path: Path) -> Iterator[tuple[int, str, str]]:
    for number, line in numbered_lines(path):
        first, tab, rest = line.partition("\t")
        if not tab:
            raise UserError(f"{path}:{number}: there is no tab; expected an id, a tab, and the text.")
        yield number, first, rest


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(sys.maxsize)
    yield from enumerate(csv.reader((f"{line}\n" for _, line in numbered_lines(path)), delimiter="\t"), 1)

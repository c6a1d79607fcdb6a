"""What `adapt` trains on and judges by: the text as BEIR folders, with queries that it answers itself.

    corpus/corpus.jsonl      passages; what asks a query is taken out of them
           queries.jsonl     the queries of all splits
           qrels/train.tsv   trained on
                 dev.tsv     choose the winner; documents that nothing is trained on
                 test.tsv    prove it; other such documents
                 judged.tsv  dev and test together: measured in one go
           passages.jsonl    the passages whole, as people search them
           facts.json        how many of what
    judging/                 where the user gave queries: theirs for dev, test and judged, on their passages

Documents are held out, not queries: a document's sentences look alike. Whole folders are, where there are many; runs of
passages, where there are few documents.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from retromae.app.adapt.folder import Folder, Query
from retromae.app.adapt.own import own_pairs, write_own
from retromae.app.adapt.settings import AdaptConfig
from retromae.core.draws import Stream, key, order
from retromae.core.errors import UserError
from retromae.core.files import replacing_folder, write_json
from retromae.text.inner_pairs import Inner, Titles, inner_passages
from retromae.text.passages import PassageRules
from retromae.text.problems import Problems
from retromae.text.sources import Document, read_documents

FACTS, WHOLE = "facts.json", "passages.jsonl"
_TITLE_ANSWERS = 3  # passages of a document that its title asks for: the first ones are about it
_MOST_HELD_OUT = 0.25  # of the documents
_SPARE = 1.5  # times as many are held out as queries are wanted: some give none
_FEW_DOCUMENTS, _RUN = 50, 20  # below so many, runs of so many passages are held out instead
LEAST = 10  # held-out queries that anything can be said by
_FEW = 100  # below, intervals are wider than most gains
_NAMES = {"title": "titles", "sentence": "cut-out sentences"}


@dataclass(frozen=True)
class CorpusFacts:
    """facts.json"""

    documents: int
    passages: int
    train: int
    dev: int
    test: int
    made_from: str
    judged_on: str  # name of the folder with dev and test
    skipped: int

    @classmethod
    def read(cls, folder: Path) -> CorpusFacts:
        try:
            return cls(**json.loads((folder / FACTS).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{folder} is damaged ({error}); choose another output_dir.") from None


def write_corpus(config: AdaptConfig, tokenizer: Any, run: Path) -> CorpusFacts:
    """Read the sources and leave the folders; `tokenizer` (of `tokenizers`) measures passages."""
    own = own_pairs(config) if config.pairs else None
    problems = Problems("skip")
    titles = Titles.of(read_documents(config.sources, config.reading, problems=problems))
    if not titles.documents:
        raise UserError(
            f"there is no text to read in {', '.join(config.sources)}; files must end in .txt, .md, .html, .rst, "
            ".jsonl, .csv, .tsv or .parquet."
        )
    held_out = 0.0
    if own is None:
        units = titles.documents if titles.documents >= _FEW_DOCUMENTS else 1  # of few, who knows how long
        held_out = min(_MOST_HELD_OUT, _SPARE * config.eval_queries / units)
    made = inner_passages(
        read_documents(config.sources, config.reading),
        titles,
        tokenizer,
        PassageRules(config.passage_max_len, min_tokens=config.passage_max_len // 4),
        kinds=config.questions_from,
        seed=config.seed,
    )
    with replacing_folder(run / "corpus") as temporary:
        with Folder(temporary) as folder:
            kept = _write_inner(made, titles, folder, held_out, config.seed)
            judging = folder
            if own is not None:
                judging = write_own(own, folder, run)
            else:
                for split, queries in _chosen(kept, config).items():
                    for query in queries:
                        folder.query(query, split, "judged")
        facts = CorpusFacts(
            documents=titles.documents,
            passages=folder.passages,
            train=folder.queries.get("train", 0),
            dev=judging.queries.get("dev", 0),
            test=judging.queries.get("test", 0),
            made_from="your queries" if own else " and ".join(map(_NAMES.__getitem__, config.judge_by)),
            judged_on="judging" if own else "corpus",
            skipped=problems.total,
        )
        _enough(facts)
        write_json(temporary / FACTS, vars(facts))
    return facts


def _write_inner(
    made: Iterable[Inner], titles: Titles, folder: Folder, held_out: float, seed: int
) -> dict[str, list[tuple[str, Query]]]:
    """Passages and training queries; gives back those of held-out documents by split, each with its kind."""
    kept: dict[str, list[tuple[str, Query]]] = {"dev": [], "test": []}
    for inner_group in _units(_documents(made), titles):
        split = _split(inner_group[0], titles, held_out, seed)
        asked: dict[str, Query] = {}
        for inner in inner_group:
            folder.passage(inner.id, inner.title, inner.text)
            folder.passage(inner.id, inner.whole.title, inner.whole.text, WHOLE)
            for kind, text in inner.asks:
                name = f"{kind}:{inner.document if kind == 'title' else inner.id}"
                query = asked.setdefault(name, Query(name, text, []))
                if kind != "title" or len(query.answers) < _TITLE_ANSWERS:
                    query.answers.append(inner.id)
                if kind == "sentence" and split == "train":
                    query.answers += inner.beside
        for name, query in asked.items():
            if split == "train":
                folder.query(query, "train")
            else:
                kept[split].append((name.partition(":")[0], query))
    return kept


def _units(documents: Iterable[list[Inner]], titles: Titles) -> Iterator[list[Inner]]:
    """What is held out or trained on together: documents, or runs of passages where there are few of them.

    Of a document that is cut into runs the title asks for the first one only.
    """
    if titles.documents >= _FEW_DOCUMENTS:
        yield from documents
        return
    for document in documents:
        for start in range(0, len(document), _RUN):
            unit = document[start : start + _RUN]
            if start:
                unit = [
                    replace(inner, asks=tuple(ask for ask in inner.asks if ask[0] != "title"))
                    for inner in unit
                ]
            yield unit


def _documents(made: Iterable[Inner]) -> Iterator[list[Inner]]:
    """Passages, one document at a time."""
    group: list[Inner] = []
    for inner in made:
        if group and inner.document != group[0].document:
            yield group
            group = []
        group.append(inner)
    if group:
        yield group


def _split(first: Inner, titles: Titles, held_out: float, seed: int) -> str:
    """The split of a unit, by its first passage: a pure function of the seed and its name."""
    whole = titles.documents >= _FEW_DOCUMENTS
    name = titles.group(first.document) if whole else first.id
    draw = key(seed, int(Stream.HOLDOUT), *name.encode()) / 2**32
    return "train" if draw >= held_out else "dev" if draw < held_out / 3 else "test"


def _chosen(kept: dict[str, list[tuple[str, Query]]], config: AdaptConfig) -> dict[str, list[Query]]:
    """A third of the wanted queries for dev, the rest for test; of every kind as many, as far as there are."""
    found: dict[str, list[Query]] = {}
    for split, most in config.held_out.items():
        by_kind: dict[str, list[Query]] = {}
        shuffled = order(len(kept[split]), config.seed, int(Stream.HOLDOUT))
        for place in shuffled.tolist():
            kind, query = kept[split][place]
            if kind in config.judge_by:
                by_kind.setdefault(kind, []).append(query)
        rounds = [query for queries in _in_turn(list(by_kind.values())) for query in queries]
        found[split] = rounds[:most]
    return found


def _in_turn(lists: Sequence[list[Query]]) -> Iterator[list[Query]]:
    for place in range(max(map(len, lists), default=0)):
        yield [queries[place] for queries in lists if place < len(queries)]


def _enough(facts: CorpusFacts) -> None:
    few = f"{facts.documents:,} documents give {facts.dev} held-out queries to choose by and {facts.test} to prove by"
    if min(facts.dev, facts.test) < LEAST or facts.train < 2 * LEAST:
        raise UserError(
            f"{few}, and {facts.train} to train on: too few to learn from or to tell anything. Give more text (some "
            "hundred pages), or --pairs with your own queries."
        )
    if facts.test < _FEW:
        warnings.warn(f"{few}; only large gains will show.", stacklevel=3)


def passages_of(run: Path) -> Iterator[Document]:
    """The passages whole, as people search them."""
    with (run / "corpus" / WHOLE).open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield Document(row["_id"], row["title"], row["text"], WHOLE)

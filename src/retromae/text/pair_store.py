"""Training pairs on their way to disk: texts into Arrow files, who answers whom into lists of numbers.

Texts are held a few thousand at a time. What stays until the end is a dozen bytes for each time that a passage
is named, and about 20 for each text: for its id or its content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from retromae.core.errors import UserError
from retromae.core.files import write_json
from retromae.text.collections import OnError
from retromae.text.mentions import Mentions
from retromae.text.numbering import Numbering, digest
from retromae.text.pair_formats import Judged, Listed, Source
from retromae.text.pair_rows import Example
from retromae.text.store import Numbers, Passage, Passages, PassageWriter

FORMAT = 1
QUERIES, PASSAGES, MANIFEST = "queries.arrow", "passages.arrow", "manifest.json"
Side = Literal["positives", "negatives"]

_TEXTS, _CHARACTERS = 1 << 15, 1 << 24  # at once
_JUDGEMENTS = 1 << 17


def build(source: Source, folder: Path, on_error: OnError) -> None:
    """Write the store of a source into an empty folder."""
    losses = _Losses(on_error)
    if isinstance(source.content, Judged):
        mentions = _build_judged(source.content, source.split, folder, losses)
    else:
        mentions = _build_listed(source.content, folder, losses)
    queries, passages = Passages(folder / QUERIES), Passages(folder / PASSAGES)
    if not len(queries):
        raise UserError(
            f"split {source.split!r} in {source.content.place} has no query with a positive passage."
        )
    contradicted = mentions.contradicted()
    if contradicted.any():
        losses.note(f"{contradicted.sum()} negatives were left out: they are positives of the same query.")
    if isinstance(source.content, Listed) and source.content.unread:
        losses.note(f"the fields {', '.join(sorted(source.content.unread))} are not read.")
    digests = [
        queries.digest(),
        passages.digest(),
        _write_lists(folder, "positives", mentions.where(mentions.positive), len(queries)),
        _write_lists(folder, "negatives", mentions.where(~mentions.positive & ~contradicted), len(queries)),
    ]
    manifest = {
        "format": FORMAT,
        "name": source.name,
        "split": source.split,
        "has_corpus": isinstance(source.content, Judged),
        "fingerprint": hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest(),
        "notes": [f"{source.content.place}: {note}" for note in losses.notes],
    }
    write_json(folder / MANIFEST, manifest)


class _Losses:
    """What can be lived with: refused, or noted and left out."""

    def __init__(self, on_error: OnError) -> None:
        self.on_error = on_error
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def refuse(self, place: str, sentence: str, remedy: str) -> None:
        if self.on_error == "raise":
            raise UserError(f"{place}: {sentence}; {remedy}.")
        self.note(f"{sentence}; left out.")


# A corpus and judgements by id


def _build_judged(judged: Judged, split: str, folder: Path, losses: _Losses) -> Mentions:
    corpus, texts, judgements = judged.read()
    with PassageWriter(folder / PASSAGES) as writer:
        writer.extend(Passage(document.id, document.title, document.text) for document in corpus)
    passages = Passages(folder / PASSAGES)
    if not len(passages):
        raise UserError(f"the corpus of {judged.place} holds no document.")
    twice = passages.id_used_twice()
    if twice is not None:
        raise UserError(f"the corpus of {judged.place} holds the id {twice!r} twice; ids must be unique.")
    ids: dict[str, int] = {}
    parts: list[Mentions] = []
    absent, first = 0, ""
    while block := list(islice(judgements, _JUDGEMENTS)):
        grades = np.array([grade for _, _, grade in block])
        owners = np.array([ids.setdefault(query, len(ids)) for query, _, _ in block], dtype=np.int32)
        found = passages.numbers_of([passage for _, passage, _ in block])
        unknown = np.flatnonzero(found < 0)
        if unknown.size:
            absent, first = absent + unknown.size, first or block[int(unknown[0])][1]
        part = Mentions(owners, found, grades > 0, np.full(len(block), np.nan, dtype=np.float32))
        parts.append(part.where((found >= 0) & (grades >= 0)))
    if absent:
        losses.refuse(
            judged.place,
            f"{absent} judgements name passages that the corpus lacks (the first is {first!r})",
            "they may belong to another version of it",
        )
    return _write_queries(
        folder, Mentions.joined(parts), ids, texts, f"split {split!r} of {judged.place}", losses
    )


def _write_queries(
    folder: Path, mentions: Mentions, ids: dict[str, int], texts: dict[str, str], place: str, losses: _Losses
) -> Mentions:
    """Write the queries that have a text and a positive; the mentions with the numbers that these get."""
    names = list(ids)
    written = np.array([bool(texts.get(query, "").strip()) for query in names], dtype=np.bool_)
    answered = np.bincount(mentions.queries[mentions.positive], minlength=len(names)) > 0
    for good, sentence, remedy in (
        (written, "have no text", "give them one or remove their judgements"),
        (answered, "have no passage that is judged relevant", "remove them from the split"),
    ):
        if not good.all():
            first = names[int(np.flatnonzero(~good)[0])]
            losses.refuse(place, f"{np.sum(~good)} queries {sentence} (the first is {first!r})", remedy)
    keep = written & answered
    with PassageWriter(folder / QUERIES) as writer:
        kept = (names[number] for number in np.flatnonzero(keep).tolist())
        writer.extend(Passage(name, "", texts[name]) for name in kept)
    numbers = (np.cumsum(keep) - 1).astype(np.int32)
    mentions = mentions.where(keep[mentions.queries])
    return mentions._replace(queries=numbers[mentions.queries])


# Examples with their texts


def _build_listed(listed: Listed, folder: Path, losses: _Losses) -> Mentions:
    queries, passages, parts = Numbering(), Numbering(), []
    with PassageWriter(folder / QUERIES) as query_file, PassageWriter(folder / PASSAGES) as passage_file:
        for block in _blocks(_answered(listed.examples(), losses)):
            asked = [example.query for example in block]
            owners = _number(queries, [digest(query.id, query.text) for query in asked], asked, query_file)
            named = [passage for example in block for passage in (*example.positives, *example.negatives)]
            counts = [len(side) for example in block for side in (example.positives, example.negatives)]
            part = Mentions(
                np.repeat(owners, np.reshape(counts, (-1, 2)).sum(axis=1)),
                _number(passages, [digest(text.title, text.text) for text in named], named, passage_file),
                np.repeat(np.tile([True, False], len(block)), counts),
                np.concatenate([_scores_of(example) for example in block]),
            )
            parts.append(part)
    for name in (QUERIES, PASSAGES):
        twice = Passages(folder / name).id_used_twice()
        if twice is not None:
            where = _second_text(twice, name == QUERIES, listed.examples()) or listed.place
            raise UserError(
                f"{where}: the id {twice!r} stands for another text before; give every text an id of its own, "
                "or leave the ids out."
            )
    return Mentions.joined(parts)


def _answered(examples: Iterable[Example], losses: _Losses) -> Iterator[Example]:
    """Those with a positive; what becomes of the others is for the losses to say."""
    left_out, first = 0, ""
    for example in examples:
        if example.positives:
            yield example
        elif losses.on_error == "raise":
            raise UserError(
                f"{example.where}: the query has no positive passage; give it one or drop the line."
            )
        else:
            left_out, first = left_out + 1, first or example.where
    if left_out:
        losses.note(f"{left_out} queries have no positive passage (the first: {first}); left out.")


def _blocks(examples: Iterable[Example]) -> Iterator[list[Example]]:
    block: list[Example] = []
    texts = characters = 0
    for example in examples:
        block.append(example)
        named = (*example.positives, *example.negatives)
        texts += len(named)
        characters += sum(len(passage.title) + len(passage.text) for passage in named)
        if texts >= _TEXTS or characters >= _CHARACTERS:
            yield block
            block, texts, characters = [], 0, 0
    if block:
        yield block


def _number(numbering: Numbering, keys: list[bytes], texts: list[Passage], file: PassageWriter) -> Numbers:
    """Their numbers; new ones are written, with the key for an id where none is given."""
    numbers, new = numbering.number(keys)
    file.extend(texts[place]._replace(id=texts[place].id or keys[place].hex()) for place in new)
    return numbers


def _scores_of(example: Example) -> npt.NDArray[np.float32]:
    if example.scores is None:
        return np.full(len(example.positives) + len(example.negatives), np.nan, dtype=np.float32)
    return np.array(example.scores, dtype=np.float32)


def _second_text(identifier: str, of_query: bool, examples: Iterable[Example]) -> str | None:
    """Read again to find where an id comes with a second text."""
    first: Passage | None = None
    for example in examples:
        named = (example.query,) if of_query else (*example.positives, *example.negatives)
        for passage in named:
            if passage.id == identifier:
                first = first or passage
                if passage != first:
                    return example.where
    return None


# Lists


def _write_lists(folder: Path, side: Side, mentions: Mentions, queries: int) -> bytes:
    """Write one side's lists and scores, where there are any; their digest."""
    content = hashlib.blake2b(side.encode())
    if len(mentions.queries):
        starts, members, scores = mentions.by_query(queries)
        arrays: dict[str, npt.NDArray[np.generic]] = {"starts": starts, "members": members}
        if not np.isnan(scores).all():
            arrays["scores"] = scores
        for name, array in arrays.items():
            np.save(folder / f"{side}.{name}.npy", array)
            content.update(name.encode() + array.tobytes())
    return content.digest()

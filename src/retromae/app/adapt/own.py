"""The user's own queries: they join the training, and they alone judge, on their own passages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retromae.app.adapt.folder import Folder, Query
from retromae.app.adapt.settings import AdaptConfig
from retromae.core.draws import Stream, order
from retromae.core.errors import UserError
from retromae.core.files import replacing_folder
from retromae.text.pairs import Pairs

_OWN = "own-"  # before ids of the user's passages and queries, which might be those of documents


@dataclass(frozen=True)
class Own:
    """The user's queries by split, and the splits of the source that they come from."""

    pairs: dict[str, Pairs]
    rows: dict[str, list[int]]


def own_pairs(config: AdaptConfig) -> Own:
    """train, dev and test of the user's pairs; what is missing is taken from what there is."""
    assert config.pairs
    found: dict[str, Pairs] = {}
    problem: UserError | None = None
    for split in ("train", "dev", "test"):
        try:
            found[split] = Pairs.open(config.pairs, split)
        except UserError as error:
            problem = problem or error
    if not found:
        assert problem is not None
        raise problem
    rows = {split: list(range(len(pairs))) for split, pairs in found.items()}
    wanted = config.held_out
    for split in ("test", "dev"):
        if split not in found:  # some of another split, of train if that is there
            source = next(name for name in ("train", "test", "dev") if name in found and rows[name])
            count = min(wanted[split], len(rows[source]) // 4)
            shuffled = order(len(rows[source]), config.seed, int(Stream.HOLDOUT), len(split))
            taken = {rows[source][place] for place in shuffled[:count].tolist()}
            found[split], rows[split] = found[source], sorted(taken)
            rows[source] = [row for row in rows[source] if row not in taken]
    for split, most in wanted.items():
        if len(rows[split]) > most:
            shuffled = order(len(rows[split]), config.seed, int(Stream.HOLDOUT))
            rows[split] = sorted(np.asarray(rows[split])[shuffled[:most]].tolist())
    return Own(found, rows)


def write_own(own: Own, corpus: Folder, run: Path) -> Folder:
    """The user's training queries go to the rest; their dev and test get a folder of their own."""
    if "train" in own.pairs:
        _copy(own.pairs["train"], own.rows["train"], corpus, ("train",), all_passages=False)
    with replacing_folder(run / "judging") as temporary, Folder(temporary) as judging:
        written: set[str] = set()
        for split in ("dev", "test"):
            _copy(own.pairs[split], own.rows[split], judging, (split, "judged"), written=written)
    return judging


def _copy(
    pairs: Pairs,
    rows: Sequence[int],
    folder: Folder,
    splits: tuple[str, ...],
    *,
    all_passages: bool = True,
    written: set[str] | None = None,
) -> None:
    """Some queries with their answers; the passages of all, or only the answers."""
    written = set() if written is None else written
    wanted: Iterable[int] = range(len(pairs.passages))
    if not all_passages:
        wanted = sorted({int(passage) for row in rows for passage in pairs.positives[row]})
    for number in wanted:
        passage = pairs.passages[number]
        if passage.id not in written:
            written.add(passage.id)
            folder.passage(_OWN + passage.id, passage.title, passage.text)
    for row in rows:
        asked = pairs.queries[row]
        answers = [_OWN + pairs.passages[int(number)].id for number in pairs.positives[row]]
        folder.query(Query(_OWN + asked.id, asked.text, answers), *splits)

"""Has the model seen the test? Queries and relevant passages are looked for in what it was trained on.

A checkpoint of ours names its rows (`pretraining.json`, `manifest.json` of its run) or the pairs that it was
fine-tuned on (`finetuning.json`), and the models that it came from (an average has several) name those before.
Queries are looked for among the training queries, whatever their case and spacing; training on the passages of a
corpus with other queries is what fine-tuning is, and no leak.

In rows texts are compared as token ids of the rows' own tokenizer. A text of fewer than 32 tokens counts as seen when
all of it stands in one row, token by token; a longer one when at least half of its pieces of 16 tokens do, since rows
are cut from documents at places of their own. Texts of fewer than 8 tokens are not looked for: they occur anywhere.
Rows that were held out count as seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retromae.core.errors import UserError
from retromae.text.pairs import Pairs
from retromae.text.rows import Rows
from retromae.text.vocabulary import open_tokenizer

SHORTEST = 8  # tokens of a text that is looked for
WHOLE = 32  # shorter texts are looked for as a whole
PIECE = 16  # of longer ones
_MOST = 512  # tokens of a text that are looked at
_WINDOWS = (8, 16)  # every one twice the one before
_BLOCK = 1 << 21  # tokens of rows that are looked at together
_FACTOR = 0x9E3779B97F4A7C15

Keys = npt.NDArray[np.uint64]
Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True)
class TrainingText:
    """What is known of the text that a model was trained on."""

    rows: list[str]  # folders of rows that are still there
    gone: list[str]  # folders that were named and are not there, or hold something else now
    recorded: bool  # False: the model does not say what it was trained on
    pairs: list[tuple[str, str]] = field(default_factory=list)  # (source, split) that it was fine-tuned on

    @property
    def sources(self) -> list[str]:
        """What was looked at, in words."""
        return [*self.rows, *(f"{path} ({split})" for path, split in self.pairs)]


@dataclass(frozen=True)
class Leakage:
    """How much of one set a model has seen in training. `queries` and `passages` are the ids that were found."""

    system: str
    training: TrainingText
    queries: list[str]
    passages: list[str]
    queries_checked: int
    passages_checked: int

    @property
    def found(self) -> bool:
        return bool(self.queries or self.passages)

    def sentence(self, name: str) -> str:
        """What to tell about the set of this name; empty where all was looked at and nothing found."""
        if self.found:
            return (
                f"{self.system} was trained on text of {name}: {len(self.queries)} of {self.queries_checked} queries "
                f"and {len(self.passages)} of {self.passages_checked} relevant passages occur word for word in "
                f"{', '.join(self.training.sources)}. Its figures there say little about text it has not seen."
            )
        if self.training.gone:
            return (
                f"{self.system} was trained on {', '.join(self.training.gone)}, which is gone or has changed: "
                f"whether it has seen {name} was not checked."
            )
        if not self.training.recorded:
            return f"What {self.system} was trained on is not recorded: whether it has seen {name} was not checked."
        return ""


def training_text(model: str | Path) -> TrainingText:
    """The rows and pairs of a checkpoint and of those that it came from, as far as they are folders here."""
    rows: list[str] = []
    gone: list[str] = []
    pairs: list[tuple[str, str]] = []
    waiting, seen = [str(model)], set[str]()
    recorded = bool(_provenance(Path(model)))
    while waiting:
        source = waiting.pop(0)
        if source in seen:
            continue
        seen.add(source)
        facts = _provenance(Path(source))
        if facts.rows:
            (rows if _is_still(facts.rows, facts.fingerprint) else gone).append(facts.rows)
        if facts.pairs:
            path, split, fingerprint = facts.pairs
            if _are_still(path, split, fingerprint):
                pairs.append((path, split))
            else:
                gone.append(path)
        if facts.averaged:  # an average knows what it has seen if all its parts do
            recorded = recorded and all(_provenance(Path(part)) for part in facts.bases)
        waiting += facts.bases
    return TrainingText(
        list(dict.fromkeys(rows)), list(dict.fromkeys(gone)), recorded, list(dict.fromkeys(pairs))
    )


@dataclass(frozen=True)
class _Facts:
    """What one folder says of its training; false where it says nothing."""

    rows: str | None = None
    fingerprint: str | None = None
    pairs: tuple[str, str, str] | None = None  # path, split, fingerprint
    bases: tuple[str, ...] = ()
    averaged: bool = False

    def __bool__(self) -> bool:
        return bool(self.rows or self.fingerprint or self.pairs or self.bases)


def _provenance(model: Path) -> _Facts:
    average, tuned = _read(model / "averaging.json"), _read(model / "finetuning.json")
    if average:
        return _Facts(bases=tuple(source["folder"] for source in average["sources"]), averaged=True)
    if tuned:
        origin = tuned["provenance"]
        pairs = (origin["pairs"], origin["split"], origin["fingerprint"])
        return _Facts(pairs=pairs, bases=(origin["base"],))
    recipe = _read(model / "pretraining.json")
    manifest = _read(model.parent / "manifest.json") if model.name in ("model", "best") else {}
    origin = recipe.get("provenance") or {}
    rows = manifest.get("rows") or {}
    base = origin.get("base")
    return _Facts(
        rows.get("path") or (recipe.get("settings") or {}).get("rows"),
        rows.get("fingerprint") or origin.get("rows"),
        bases=(base,) if base else (),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_still(path: str, fingerprint: str | None) -> bool:
    try:
        return Rows.open(path).fingerprint == fingerprint
    except UserError:
        return False


def _are_still(path: str, split: str, fingerprint: str) -> bool:
    try:
        return Pairs.open(path, split).fingerprint == fingerprint
    except UserError:
        return False


def _queries_of(pairs: Sequence[tuple[str, str]]) -> set[str]:
    """The training queries, in lower case and with single spaces."""
    return {_plain(query.text) for path, split in pairs for query in Pairs.open(path, split).queries}


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def check(
    system: str,
    training: TrainingText,
    queries: Mapping[str, str],
    passages: Mapping[str, str],
    tokenizer: str | Path | None = None,
) -> Leakage:
    """Look for the texts (id → text) in the training text; `tokenizer` serves rows that do not bring theirs."""
    texts = [*queries.values(), *passages.values()]
    seen = np.zeros(len(texts), dtype=np.bool_)
    checked = np.zeros(len(texts), dtype=np.bool_)
    for folder in training.rows:
        rows = Rows.open(folder)
        pieces, owners = _pieces(texts, rows.tokenizer_path or tokenizer)
        total = np.bincount(owners, minlength=len(texts))
        found = np.bincount(owners, seen_in(rows, pieces), minlength=len(texts))
        checked |= total > 0
        seen |= (total > 0) & (2 * found >= total)
    if training.pairs:
        asked = _queries_of(training.pairs)
        among = np.array([_plain(query) in asked for query in queries.values()], dtype=np.bool_)
        seen[: len(queries)] |= among
        checked[: len(queries)] = True
    of_queries, of_passages = slice(len(queries)), slice(len(queries), None)
    return Leakage(
        system,
        training,
        [query for query, found in zip(queries, seen[of_queries]) if found],
        [passage for passage, found in zip(passages, seen[of_passages]) if found],
        int(checked[of_queries].sum()),
        int(checked[of_passages].sum()),
    )


def _pieces(texts: Sequence[str], tokenizer: str | Path | None) -> tuple[list[Tokens], npt.NDArray[np.int64]]:
    """What is looked for, and which text each piece belongs to."""
    pieces: list[Tokens] = []
    owners: list[int] = []
    if texts and tokenizer is not None:
        encode = open_tokenizer(str(tokenizer))
        encoded = encode(list(texts), add_special_tokens=False, truncation=True, max_length=_MOST)
        for owner, ids in enumerate(encoded["input_ids"]):
            tokens = np.array(ids, dtype=np.int32)
            own = [tokens] if len(tokens) < WHOLE else np.split(tokens, range(PIECE, len(tokens), PIECE))
            kept = [piece for piece in own if len(piece) >= (SHORTEST if len(own) == 1 else PIECE)]
            pieces += kept
            owners += [owner] * len(kept)
    return pieces, np.array(owners, dtype=np.int64)


def seen_in(rows: Rows, pieces: Sequence[Tokens]) -> npt.NDArray[np.bool_]:
    """Which token sequences stand in a row. Rows are read in blocks; sequences too short are never seen."""
    seen = np.zeros(len(pieces), dtype=np.bool_)
    wanted: dict[int, dict[int, list[int]]] = {window: {} for window in _WINDOWS}
    for number, piece in enumerate(pieces):
        if len(piece) >= SHORTEST:
            window = max(size for size in _WINDOWS if size <= len(piece))
            key = int(_window_keys(piece[:window])[window][0])
            wanted[window].setdefault(key, []).append(number)
    for tokens, ends in _blocks(rows):
        for window, keys in _window_keys(tokens).items():
            for place, key in _hits(keys, wanted[window]):
                end = int(ends[np.searchsorted(ends, place, side="right")])
                for number in wanted[window][key]:
                    stop = place + len(pieces[number])
                    seen[number] |= stop <= end and np.array_equal(tokens[place:stop], pieces[number])
    return seen


def _hits(keys: Keys, wanted: Mapping[int, Sequence[int]]) -> Iterator[tuple[int, int]]:
    """(place, key) wherever a wanted key stands."""
    if not wanted or not len(keys):
        return
    sought = np.sort(np.fromiter(wanted, dtype=np.uint64, count=len(wanted)))
    nearest = np.minimum(np.searchsorted(sought, keys), len(sought) - 1)
    for place in np.flatnonzero(sought[nearest] == keys).tolist():
        yield place, int(keys[place])


def _blocks(rows: Rows) -> Iterator[tuple[Tokens, npt.NDArray[np.int64]]]:
    """(tokens of consecutive rows, where each of them ends)."""
    ends = np.cumsum(rows.lengths, dtype=np.int64)
    start = 0
    while start < len(rows):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _BLOCK, side="right")))
        tokens, lengths = rows.take(np.arange(start, stop))
        yield tokens, np.cumsum(lengths, dtype=np.int64)
        start = stop


def _window_keys(tokens: Tokens) -> dict[int, Keys]:
    """For each window size w: a hash of tokens[i : i + w] for every i, by doubling."""
    keys = (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(_FACTOR)
    keys ^= keys >> np.uint64(29)
    found, size, factor = {}, 1, _FACTOR
    while size < _WINDOWS[-1] and len(keys) > size:
        keys = keys[:-size] * np.uint64(factor) + keys[size:]
        size, factor = 2 * size, factor * factor % (1 << 64)
        if size in _WINDOWS:
            found[size] = keys
    return found

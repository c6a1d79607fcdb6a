"""A corpus → shards of vectors: resumable, by one process or many, with memory that does not grow.

Shard s holds documents s·size to (s+1)·size − 1. Under torchrun process r makes the shards r, r + world, …; a
shard depends on its own documents only, so the result is the same, bit for bit, whoever makes it. There is
nothing to resume from but the folder: shards that are there are compared with the corpus and kept.
"""

from __future__ import annotations

import itertools
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from retromae.core import distributed
from retromae.core.errors import UserError
from retromae.core.files import remove_left_overs
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.shards import (
    MANIFEST,
    Manifest,
    Precision,
    Shard,
    VectorStore,
    cut_of,
    digest_of,
    shard_folder,
    write_shard,
)
from retromae.text.store import Passage


class Document(Protocol):
    """What a corpus is made of: `Passage`, or what `Collection.corpus` gives."""

    @property
    def id(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def text(self) -> str: ...


Corpus = Callable[[], Iterable[Document]]  # read anew at every call
SHARD_SIZE = 4096
MANY = 0.05  # documents that are cut: a share above this is warned of


def embed_corpus(
    encoder: Encoder,
    corpus: Corpus,
    folder: str | Path,
    *,
    dtype: Precision = "float32",
    shard_size: int = SHARD_SIZE,
    progress: bool = False,
) -> VectorStore | None:
    """Encode every document and return the finished folder; None where other processes still work on it.

    The corpus is read twice: once to count it and to refuse missing and repeated ids before any work is done
    (8 bytes a document), once to encode. `Collection.corpus` is such a corpus. Call again to resume; a folder
    with vectors of another model, other settings or another corpus is refused.
    """
    folder = Path(folder)
    if dtype not in ("float32", "float16"):
        raise UserError(f"vectors are stored as float32 or float16, not {dtype}.")
    if shard_size < 1:
        raise UserError(f"a shard must hold at least 1 document, not {shard_size}.")
    manifest = Manifest(
        fingerprint=encoder.fingerprint,
        dimension=encoder.dimension,
        vocabulary=encoder.vocabulary,
        dtype=dtype,
        documents=count_documents(corpus),
        shard_size=shard_size,
        source=encoder.source,
        settings=encoder.settings,
    )
    _claim(folder, manifest)
    mine = range(distributed.rank(), manifest.shards, distributed.world_size())
    tally = _Tally(encoder.max_passage_length)
    with progress_of("passages", sum(map(manifest.size_of, mine)), progress) as advance:
        for shard, documents in enumerate(_parts(corpus, shard_size)):
            if shard in mine:
                tally.add(_make(encoder, folder, shard, documents, dtype), len(documents))
                advance(len(documents))
    done = all((shard_folder(folder, n) / "shard.json").is_file() for n in range(manifest.shards))
    return VectorStore(folder) if done else None


class _Tally:
    """Documents that did not fit into the encoder: said once, as soon as there are many of them."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._cut = self._seen = 0
        self._told = not distributed.writes()

    def add(self, cut: int, documents: int) -> None:
        self._cut, self._seen = self._cut + cut, self._seen + documents
        if self._cut > MANY * self._seen and not self._told:
            self._told = True
            warnings.warn(
                f"{self._cut:,} of the {self._seen:,} documents so far ({self._cut / self._seen:.0%}) are longer than "
                f"{self._longest} tokens, and what lies beyond is not encoded; split them into passages, or raise "
                "max_passage_length where the model takes more.",
                stacklevel=3,
            )


def _make(encoder: Encoder, folder: Path, shard: int, documents: list[Passage], dtype: Precision) -> int:
    """Make one shard, or see that the finished one belongs to these documents; how many of them were cut."""
    path = shard_folder(folder, shard)
    remove_left_overs(path)
    if path.exists():
        facts = Shard(path, 0).facts
        if facts["digest"] != digest_of(documents):
            raise UserError(
                f"{path} was made of other documents: the corpus has changed; encode it into a new folder."
            )
        return int(facts.get("cut", 0))
    texts = [document.text for document in documents]
    vectors = encoder.encode_passages(texts, [document.title for document in documents])
    write_shard(folder, shard, vectors, documents, dtype)
    return cut_of(vectors)


def _claim(folder: Path, manifest: Manifest) -> None:
    """Write vectors.json, or see that the one that is there says the same (the model may have moved)."""
    stray = folder.is_dir() and any(folder.glob("shard-*"))  # before the manifest, which others write first
    if (folder / MANIFEST).is_file():
        found = vars(Manifest.read(folder))
        changed = [
            name for name, value in vars(manifest).items() if name != "source" and found[name] != value
        ]
        if changed:
            raise UserError(
                f"{folder} holds vectors that differ in {', '.join(changed)}; choose another folder or delete it."
            )
    else:
        if stray:
            raise UserError(f"{folder} holds shards without {MANIFEST}; choose another folder or delete it.")
        manifest.write(folder)


def _parts(corpus: Corpus, size: int) -> Iterator[list[Passage]]:
    documents = (Passage(found.id, found.title, found.text) for found in corpus())
    while part := list(itertools.islice(documents, size)):
        yield part


def count_documents(corpus: Corpus) -> int:
    """How many; a missing or repeated id, or an empty corpus, is refused."""
    hashes = array("q")
    for number, document in enumerate(corpus(), 1):
        if not document.id:
            raise UserError(f"document {number} of the corpus has no id; give every document one.")
        hashes.append(hash(document.id))
    if not hashes:
        raise UserError("the corpus holds no document.")
    values, counts = np.unique(np.frombuffer(hashes, dtype=np.int64), return_counts=True)
    if (counts > 1).any():
        suspects, seen = set(values[counts > 1].tolist()), set()
        for document in corpus():
            if hash(document.id) in suspects:
                if document.id in seen:
                    raise UserError(f"the corpus holds the id {document.id!r} twice; ids must be unique.")
                seen.add(document.id)
    return len(hashes)


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")


@contextmanager
def progress_of(what: str, total: int, shown: bool) -> Iterator[Callable[[float], None]]:
    """A bar on the standard error, of the first process; yields what is called with the number just done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)  # results are what goes to the standard output
    with Progress(*columns, console=console, disable=not (shown and distributed.writes())) as bar:
        yield partial(bar.advance, bar.add_task(what, total=total))

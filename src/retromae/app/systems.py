"""The retrievers that are compared: an encoder, BM25, a run that somebody else made, or a fusion of two."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retromae.app.encoders import EncoderSettings
from retromae.core.errors import UserError
from retromae.core.ranking import Run, read_trec
from retromae.retrieval.embed import SHARD_SIZE, embed_corpus
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.fusion import reciprocal_rank, weighted
from retromae.retrieval.index import build_index
from retromae.retrieval.lexical import BM25
from retromae.retrieval.search import Searcher
from retromae.retrieval.shards import MANIFEST, Manifest
from retromae.text.collections import Collection

Kind = Literal["encoder", "bm25", "run", "fusion"]
_RUN_ENDINGS = (".trec", ".run", ".txt")


@dataclass(frozen=True)
class System:
    """One retriever by name. `source` is a folder, a hub name, or the file of a run, with {set} for the set's name."""

    name: str
    kind: Kind
    source: str

    @property
    def file_name(self) -> str:
        return re.sub(r"[^\w.+-]+", "_", self.name).strip("_") or "system"


def parse(spec: str) -> System:
    """`bm25`, `fusion`, a model's folder or hub name, a TREC run's file, or any of them as NAME=…"""
    name, equals, source = spec.partition("=")
    if not equals or Path(spec).exists():
        name, source = spec.rstrip("/"), spec
    if not name or not source:
        raise UserError(
            f"'{spec}' names no system; expected bm25, fusion, a model or a run, or NAME=one of them."
        )
    if source in ("bm25", "fusion"):
        return System(name, "bm25" if source == "bm25" else "fusion", source)
    if Path(source).is_file() or source.endswith(_RUN_ENDINGS):
        return System(name, "run", source)
    return System(name, "encoder", source)


class Retrievers:
    """Ranks the corpus of a collection by each system. Encoders are opened once, vectors kept in `folder`."""

    def __init__(
        self, systems: list[System], settings: EncoderSettings, folder: Path, fusion_weight: float | None
    ) -> None:
        """`settings` hold for the first system, the model that is evaluated; the others are what they state."""
        if fusion_weight is not None and not 0 <= fusion_weight <= 1:
            raise UserError(f"fusion_weight is the model's share, from 0 to 1, not {fusion_weight}.")
        if fusion_weight is not None and all(system.kind != "fusion" for system in systems):
            raise UserError("fusion_weight was given but nothing is fused; add --against fusion.")
        self.systems = systems
        self.settings = settings
        self.folder = folder
        self.fusion_weight = fusion_weight
        self._encoders = {
            system.name: settings.open(system.source)
            if place == 0
            else settings.open_as_stated(system.source)
            for place, system in enumerate(systems)
            if system.kind == "encoder"
        }

    def encoder(self, system: System) -> Encoder:
        if system.name not in self._encoders:
            raise UserError(f"{system.name} has no vectors; sentence tasks take encoders only.")
        return self._encoders[system.name]

    def runs(self, name: str, collection: Collection, depth: int, *, progress: bool) -> dict[str, Run]:
        """System name → the first `depth` results of every query of the set called `name`."""
        found: dict[str, Run] = {}
        lexical: Run | None = None
        if any(system.kind in ("bm25", "fusion") for system in self.systems):
            lexical = BM25.build(collection.corpus()).search(collection.queries, depth)
        for system in self.systems:
            if system.kind == "fusion":
                continue
            if system.kind == "bm25":
                assert lexical is not None
                found[system.name] = lexical
            elif system.kind == "run":
                found[system.name] = _read_run(system, name, collection).cut(depth)
            else:
                found[system.name] = self._dense(system, name, collection, depth, progress)
        for system in self.systems:
            if system.kind == "fusion":
                assert lexical is not None
                found[system.name] = self._fused(found[self.systems[0].name], lexical, depth)
        return {system.name: found[system.name] for system in self.systems}

    def _fused(self, model: Run, lexical: Run, depth: int) -> Run:
        if self.fusion_weight is None:
            return reciprocal_rank([model, lexical], depth=depth)
        return weighted([model, lexical], [self.fusion_weight, 1 - self.fusion_weight], depth=depth)

    def _dense(self, system: System, name: str, collection: Collection, depth: int, progress: bool) -> Run:
        """Exact search over vectors that are made now or were made before."""
        vectors = self.folder / name / system.file_name
        encoder = self._encoders[system.name]
        if self.settings.fits and system is self.systems[0]:
            encoder = self.settings.open_for(system.source, collection.corpus, vectors, progress=progress)
        made = Manifest.read(vectors) if (vectors / MANIFEST).is_file() else None
        store = embed_corpus(
            encoder,
            collection.corpus,
            vectors,
            dtype=made.dtype if made else "float32",
            shard_size=made.shard_size if made else SHARD_SIZE,
            progress=progress,
        )
        if store is None:
            raise UserError(
                "evaluate runs as one process; encode the corpora with `torchrun … retromae encode` first and "
                f"name their folder: --vectors FOLDER, where this one is {name}/{system.file_name}."
            )
        with tempfile.TemporaryDirectory(dir=vectors.parent) as temporary:
            index = build_index(store, Path(temporary) / "index")
            return Searcher(index, encoder).run(collection.queries, depth)


def _read_run(system: System, name: str, collection: Collection) -> Run:
    run = read_trec(system.source.replace("{set}", name))
    if not any(query in run for query in collection.queries):
        raise UserError(
            f"the run {system.source} has no query of {name}; with several sets write {{set}} where their names "
            "stand in the file names."
        )
    return run


def check(systems: list[System]) -> None:
    """Refuse what cannot be compared, before any work is done."""
    names: set[str] = set()
    for system in systems:
        if system.file_name in names:
            raise UserError(f"two systems are called {system.name!r}; name them apart: NAME={system.source}.")
        names.add(system.file_name)
    if systems[0].kind == "fusion":
        raise UserError("fusion joins the model that is evaluated with BM25; name a model first.")
    if systems[0].kind == "bm25" and any(system.kind == "fusion" for system in systems):
        raise UserError("fusion joins the model that is evaluated with BM25, which is BM25 itself here.")

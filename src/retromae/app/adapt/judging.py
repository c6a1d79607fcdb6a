"""Ranks the held-out queries by every system and keeps the rankings.

    judged/NAME.trec    the best 100 passages of every held-out query, for one system

dev and test are ranked together, over one part of the corpus: every answer, BM25's best and random passages.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from retromae.app.adapt.corpus import CorpusFacts
from retromae.app.adapt.settings import AdaptConfig
from retromae.app.dev import DevSet, dev_set
from retromae.core.ranking import Run, read_trec, write_trec
from retromae.evaluation.metrics import Result, evaluate_run
from retromae.retrieval.encoder import Encoder
from retromae.text.layouts import Qrels
from retromae.text.store import Passage

METRIC = "nDCG@10"
METRICS = (METRIC, "RR@10", "R@100")
BM25_NAME = "bm25"
LEXICAL = "-lexical"  # behind a system's name: with DupMAE's lexical half
LEXICAL_TERMS = 384  # of a passage, as in the paper


@dataclass
class Judging:
    """The held-out queries of a run, and what the systems made of them."""

    run: Path
    config: AdaptConfig
    facts: CorpusFacts

    @property
    def folder(self) -> Path:
        return self.run / "judged"

    @cached_property
    def queries(self) -> DevSet:
        found, _ = dev_set(
            self.run / self.facts.judged_on,
            "judged",
            train="judged",
            queries=self.facts.dev + self.facts.test,
            passages=self.config.eval_passages,
            metric=METRIC,
            cache=str(self.run / "pairs"),
            seed=self.config.seed,
        )
        return found

    @cached_property
    def passages(self) -> dict[str, Passage]:
        return {passage.id: passage for passage in self.queries.passages}

    def split(self, name: str) -> Qrels:
        """Judgements of dev or test."""
        return self._splits[name]

    @cached_property
    def _splits(self) -> dict[str, Qrels]:
        def of(split: str) -> Qrels:
            path = self.run / self.facts.judged_on / "qrels" / f"{split}.tsv"
            wanted = {row.partition("\t")[0] for row in path.read_text(encoding="utf-8").splitlines()[1:]}
            return {query: grades for query, grades in self.queries.qrels.items() if query in wanted}

        return {split: of(split) for split in ("dev", "test")}

    # -- ranking ------------------------------------------------------------------------------------------------

    def path(self, system: str) -> Path:
        return self.folder / f"{system}.trec"

    def rank_bm25(self) -> None:
        self._write(BM25_NAME, self.queries.bm25(self.config.language))

    def rank(self, system: str, encoder: Encoder) -> None:
        """Rank with an encoder; one with a lexical half is two systems."""
        passages = encoder.encode_passages(
            [passage.text for passage in self.queries.passages],
            [passage.title for passage in self.queries.passages],
        )
        if passages.lexical is not None:
            self._write(system + LEXICAL, self.queries.ranked(encoder, passages))
        self._write(system, self.queries.ranked(encoder, passages, dense_only=True))

    def _write(self, system: str, run: Run) -> None:
        self.folder.mkdir(exist_ok=True)
        write_trec(self.path(system), run, system)

    def ranked(self) -> Iterator[str]:
        """The systems that there are."""
        yield from sorted(path.stem for path in self.folder.glob("*.trec"))

    def read(self, system: str) -> Run:
        return read_trec(self.path(system))

    def figure(self, system: str, split: str = "dev") -> float:
        return self.result(system, self.read(system), split)[METRIC]

    def result(self, system: str, run: Run, split: str) -> Result:
        return evaluate_run(self.split(split), run, METRICS, name=system)

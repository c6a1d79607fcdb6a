"""What a person should know before beginning, in sentences that say what to do."""

from __future__ import annotations

from collections.abc import Iterator

from retromae.app.adapt.settings import AdaptConfig
from retromae.app.doctor.base import BaseFacts
from retromae.app.doctor.fit import Fit, PassageFacts
from retromae.app.doctor.forecast import Forecast
from retromae.app.doctor.machine import Machine
from retromae.app.doctor.pairs import PairFacts
from retromae.app.doctor.words import counted, size
from retromae.core.words import roughly
from retromae.text.corpus_facts import CorpusFacts
from retromae.text.language import UNKNOWN

TOO_FEW, FEW = 200, 2_000
"""Passages: below the first nothing is learned that can be told from chance, below the second little."""
_FEW_DOCUMENTS = 10
_FEW_PAIRS = 200
_MANY_COPIES, _MANY_LINES, _MUCH_MARKUP, _MIXED = 0.05, 0.1, 0.1, 0.1  # shares that are worth a sentence


def remarks_on(
    corpus: CorpusFacts,
    base: BaseFacts,
    fit: Fit,
    passages: PassageFacts,
    machine: Machine,
    forecast: Forecast,
    settings: AdaptConfig,
    pairs: PairFacts | None,
) -> list[str]:
    return [
        *_of_amounts(corpus, passages, pairs),
        *([fit.sentence[0].upper() + fit.sentence[1:]] if fit.verdict != "fits" else []),
        *_of_room(machine, forecast),
        *_of_time(machine, forecast),
        *_of_content(corpus),
    ]


def _of_amounts(corpus: CorpusFacts, passages: PassageFacts, pairs: PairFacts | None) -> Iterator[str]:
    documents, cut = counted(corpus.documents, "document"), counted(passages.number, "passage")
    if passages.number < TOO_FEW:
        yield (
            f"{documents} with {cut} are too few to learn from and to judge by: have {TOO_FEW:,} passages at least, "
            f"better {FEW:,}; until then search with the base as it is, or BM25."
        )
    elif passages.number < FEW:
        yield f"{cut} are few: gains are small and their intervals wide below {FEW:,} or so."
    if corpus.documents < _FEW_DOCUMENTS <= passages.number:
        yield (
            f"All passages come from {documents}, and whole documents are held out to judge by: split them into files, "
            "or one record each, where they have parts."
        )
    if pairs is not None and (queries := sum(pairs.queries.values())) < _FEW_PAIRS:
        yield (f"{queries:,} pairs are too few to train on alone; they still count, as queries that judge.")


def _of_room(machine: Machine, forecast: Forecast) -> Iterator[str]:
    memory = forecast.memory
    if not memory.fits:
        needed = max(memory.training, memory.encoding)
        yield (
            f"{size(needed)} of memory would be needed and {size(memory.available)} are free, so nothing was measured: "
            "lower per_device_train_batch_size, take a smaller base, or free some."
        )
    if forecast.disk > machine.free_disk:
        yield (
            f"The run would write up to {size(forecast.disk)}, but {size(machine.free_disk)} are free at "
            f"{machine.output}: make room, or name another output_dir."
        )


def _of_time(machine: Machine, forecast: Forecast) -> Iterator[str]:
    if machine.busy:
        yield (
            f"Others keep this machine busy (load {machine.load:.1f}): what was measured is slower than it would "
            "be on a quiet one."
        )
    budget, share = forecast.budget_seconds, forecast.training_share
    if budget is None or share is None:
        return
    if share == 0.0:
        yield (
            f"Encoding all passages before and after takes {roughly(2 * forecast.encoding_seconds)}, more than the "
            f"{roughly(budget)} that are given: give it more time, or less text."
        )
    elif share < 0.1:
        yield (
            f"{roughly(budget)} leave room for {share:.0%} of one pass over the passages: expect little, or give it "
            f"about {roughly(forecast.seconds)}."
        )


def _of_content(corpus: CorpusFacts) -> Iterator[str]:
    if corpus.stopped:
        part = f"{corpus.share_read:.0%} of the sources" if corpus.share_read < 1 else "documents"
        yield f"Only the first {part} could be looked at in the time; the rest is taken to be like it."
    failed = {kind: number for kind, number in corpus.skipped.items() if kind != "not_read"}
    for kind, number in failed.items():
        yield f"{number:,} × {kind.replace('_', ' ')}, the first: {corpus.skipped_examples[kind][0]}"
    if corpus.duplicates > _MANY_COPIES * corpus.documents:
        yield (
            f"{corpus.duplicates / corpus.documents:.0%} of the documents are word for word copies of others; "
            "passages that are copies are dropped."
        )
    if corpus.near_copies.share > _MANY_COPIES:
        first, second = corpus.near_copies.examples[0]
        yield (
            f"{corpus.near_copies.share:.0%} of the documents are nearly copies of others (such as {first} and "
            f"{second}): each is taken for a wrong answer to the other's questions; remove old versions."
        )
    repeated = corpus.repeated
    if repeated.share > _MANY_LINES:
        yield (
            f"{repeated.share:.0%} of the lines stand in many documents (such as “{repeated.lines[0].text[:60]}”): "
            "headers, menus and footers are best removed."
        )
    if corpus.with_markup > _MUCH_MARKUP * corpus.documents:
        yield (
            f"{corpus.with_markup / corpus.documents:.0%} of the documents have HTML tags or entities left in their "
            "text, which take up room in every passage."
        )
    named = (found for found in corpus.languages if not found.language.startswith(UNKNOWN))
    mixed = [found for found in named if found.share >= _MIXED]
    if len(mixed) > 1:
        listed = ", ".join(f"{found.language} {found.share:.0%}" for found in mixed)
        yield f"The text is in several languages ({listed}): the base should know them all."

"""The examination: text, base and machine looked at together, before anything long is begun."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from retromae.app.adapt.settings import AdaptConfig
from retromae.app.choice import Choice
from retromae.app.doctor.base import BaseFacts, OpenBase, kind_of, opened
from retromae.app.doctor.fit import Fit, PassageFacts, Sample, Tokenised, tokenised
from retromae.app.doctor.forecast import Forecast, forecast, memory_forecast
from retromae.app.doctor.machine import Machine, look
from retromae.app.doctor.measure import TrainingSpeed, contrastive_speed, encoding_speed, reconstruction_speed
from retromae.app.doctor.pairs import PairFacts, count_pairs
from retromae.app.doctor.remarks import remarks_on
from retromae.core.errors import UserError
from retromae.text.corpus_facts import CorpusFacts, survey
from retromae.text.sources import ReadOptions

MEASURING = 7.5  # seconds, of all measured runs together
READING = 120.0  # seconds; what is not read by then is reckoned from what was
_LEAST_MEASURED = 2  # passages
_READ = ".txt .md .html .rst .jsonl .csv .tsv .parquet"


@dataclass(frozen=True)
class Examination:
    """What `doctor` found out."""

    sources: list[str]
    corpus: CorpusFacts
    base: BaseFacts
    fit: Fit
    passages: PassageFacts
    pairs: PairFacts | None
    machine: Machine
    forecast: Forecast
    remarks: list[str]
    """What is to be known before one begins: a sentence each, the gravest first."""
    seconds: float
    choice: Choice | None = None


Choose = Callable[[Examination], Choice]


def examine(
    sources: Sequence[str],
    model: str | None = None,
    *,
    minutes: float | None = None,
    pairs: str | None = None,
    output_dir: str = "runs",
    options: ReadOptions | None = None,
    settings: AdaptConfig | None = None,
    choose: Choose | None = None,
    measuring: float = MEASURING,
    progress: bool = False,
) -> Examination:
    """Look at the text, the base (None: from nothing) and the machine, and measure a few real steps.

    Sizes are those of `settings`, and `measuring` the seconds of all measured runs together. Nothing is written but a
    temporary folder where there is no base. `choose` says what to do with what was found; without measurements it has
    nothing to go by and is not asked.
    """
    settings = settings or AdaptConfig()
    began = time.monotonic()
    kind_of(model)  # refuses before anything is read
    pair_facts = count_pairs(pairs) if pairs is not None else None
    found = survey(sources, options, seconds=READING, progress=progress)
    _need_text(sources, found.facts)
    machine = look(output_dir, [("serve", "the workbench (retromae serve)")])
    with warnings.catch_warnings(), opened(model, found.excerpts, settings) as base:
        warnings.simplefilter("ignore")  # of libraries, about a model that is thrown away
        text = tokenised(found, base.tokenizer, base.passage_length(settings))
        text = _of_everything(text, found.facts)
        expected = _forecast(base, text, found.facts, machine, settings, minutes, measuring)
        facts = base.facts
    examination = Examination(
        sources=list(sources),
        corpus=found.facts,
        base=facts,
        fit=text.fit,
        passages=text.passages,
        pairs=pair_facts,
        machine=machine,
        forecast=expected,
        remarks=remarks_on(
            found.facts, facts, text.fit, text.passages, machine, expected, settings, pair_facts
        ),
        seconds=time.monotonic() - began,
    )
    if choose is None or expected.encoding is None:
        return examination
    return replace(examination, choice=choose(examination))


def _need_text(sources: Sequence[str], facts: CorpusFacts) -> None:
    if facts.documents:
        return
    named = ", ".join(sources)
    if not facts.files:
        raise UserError(f"there is no file in {named}; put text there ({_READ}), or name another folder.")
    number = sum(facts.skipped.values())
    first = next(iter(facts.skipped_examples.values()), ["it is empty."])[0]
    raise UserError(
        f"there is no text in {named}: {number:,} files or records, and none can be read (the first is {first}) "
        f"Text is read from {_READ}."
    )


def _of_everything(text: Tokenised, facts: CorpusFacts) -> Tokenised:
    """Where the reading was stopped, the passages of the rest are taken to be as many."""
    number = round(text.passages.number / max(facts.share_read, 1e-6))
    return replace(text, passages=replace(text.passages, number=number))


def _forecast(
    base: OpenBase,
    text: Tokenised,
    corpus: CorpusFacts,
    machine: Machine,
    settings: AdaptConfig,
    minutes: float | None,
    measuring: float,
) -> Forecast:
    planned = settings.objective != "none"
    reconstructs = base.facts.kind != "embedder" if settings.objective == "auto" else planned
    memory = memory_forecast(base.facts, text.passages, machine, settings, reconstruction=reconstructs)
    encoding = None
    training: list[TrainingSpeed] = []
    if memory.fits and len(text.samples) >= _LEAST_MEASURED:
        share = measuring / (3 if reconstructs else 2)
        encoding = encoding_speed(base, text.samples, share)
        training = _training(base, text.samples, settings, share, reconstructs=reconstructs)
    return forecast(
        base.facts,
        text.passages,
        memory,
        round(corpus.characters / corpus.share_read),
        settings,
        encoding,
        training,
        minutes,
    )


def _training(
    base: OpenBase, samples: list[Sample], settings: AdaptConfig, seconds: float, *, reconstructs: bool
) -> list[TrainingSpeed]:
    first = [reconstruction_speed(base, samples, settings, seconds)] if reconstructs else []
    return [*first, contrastive_speed(base, samples, settings, seconds)]

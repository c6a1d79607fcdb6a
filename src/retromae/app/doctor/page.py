"""An examination for people (on the terminal) and for programs (JSON)."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from retromae.app.doctor.examine import Examination
from retromae.app.doctor.words import counted, size
from retromae.core.words import roughly
from retromae.text.corpus_facts import CorpusFacts, Lengths

Rows = dict[str, str]
_SHOWN = 0.01  # a language with a smaller share is not worth a line


def as_json(examination: Examination) -> dict[str, Any]:
    return asdict(examination)


def show(examination: Examination, console: Console) -> None:
    for title, rows in (
        ("The text", _text(examination)),
        ("The base", _base(examination)),
        ("This machine", _machine(examination)),
        ("What it will take", _forecast(examination)),
    ):
        console.print(f"\n[bold]{title}[/bold]")
        table = Table.grid(padding=(0, 2))
        for name, value in rows.items():
            table.add_row(f"  {name}", escape(value))
        console.print(table, highlight=False)
    _list(console, "To be known before", examination.remarks)
    choice = examination.choice
    if choice is not None:
        _list(console, "What I would do, and why", choice.reasons)
        console.print("\n[bold]The command[/bold]")
        console.print(f"  {' '.join(choice.command)}", highlight=False, markup=False, soft_wrap=True)


def _list(console: Console, title: str, sentences: Iterable[str]) -> None:
    sentences = list(sentences)
    if sentences:
        console.print(f"\n[bold]{title}[/bold]")
    for sentence in sentences:
        lines = textwrap.wrap(sentence, max(40, console.width - 4))
        console.print("  • " + "\n    ".join(lines), highlight=False, markup=False, soft_wrap=True)


def _text(examination: Examination) -> Rows:
    corpus, passages, pairs = examination.corpus, examination.passages, examination.pairs
    rows = {"read": _read(corpus)}
    if corpus.skipped:
        reasons = (f"{number:,} × {kind.replace('_', ' ')}" for kind, number in corpus.skipped.items())
        rows["left out"] = ", ".join(reasons)
    shown = [found for found in corpus.languages if found.share >= _SHOWN]
    rows["language"] = ", ".join(f"{found.language} {found.share:.0%}" for found in shown) or "unknown"
    rows["words of a document"] = _lengths(corpus.lengths)
    rows["with a title"] = f"{corpus.titled / corpus.documents:.0%}"
    rows["copies"] = _copies(corpus)
    rows["repeated lines"] = _repeated(corpus)
    rows["passages"] = (
        f"{passages.number:,} of at most {passages.longest} tokens ({passages.mean_tokens:.0f} on average); "
        f"{passages.cut_share:.0%} of the documents are longer than one and are split: cut off, "
        f"{passages.lost_share:.0%} of the text would be lost"
    )
    if pairs is not None:
        splits = ", ".join(f"{number:,} {split}" for split, number in pairs.queries.items())
        rows["pairs"] = f"queries: {splits}; {pairs.answers:,} answers"
    return rows


def _read(corpus: CorpusFacts) -> str:
    part = f" (of which {corpus.share_read:.0%} was looked at)" if corpus.share_read < 1 else ""
    documents, files = counted(corpus.documents, "document"), counted(corpus.files, "file")
    return (
        f"{documents} in {files}{part}: {corpus.characters:,} characters, {corpus.words:,} words, about "
        f"{corpus.sentences:,} sentences; in {roughly(corpus.seconds)}"
    )


def _lengths(lengths: Lengths) -> str:
    if lengths.shortest == lengths.longest:
        return f"{lengths.longest:,}"
    return (
        f"{lengths.shortest:,} to {lengths.longest:,}; half have {lengths.quarter:,} to "
        f"{lengths.three_quarters:,}, the middle one {lengths.median:,}"
    )


def _copies(corpus: CorpusFacts) -> str:
    near = corpus.near_copies
    compared = f"a sample of {near.compared:,}" if near.sampled else f"{near.compared:,} compared"
    return f"{corpus.duplicates:,} word for word; {near.copies:,} nearly ({near.share:.1%} of {compared})"


def _repeated(corpus: CorpusFacts) -> str:
    repeated = corpus.repeated
    if not repeated.lines:
        return "none that stands in many documents"
    first = repeated.lines[0]
    return (
        f"{repeated.number:,}, {repeated.share:.0%} of all lines; first “{first.text[:50]}” in "
        f"{first.share:.0%} of the documents"
    )


def _base(examination: Examination) -> Rows:
    base, fit = examination.base, examination.fit
    return {
        "kind": f"{base.kind}: {base.decided_by}",
        **({"model": base.source} if base.source is not None else {}),
        "size": (
            f"{base.parameters / 1e6:,.1f} million parameters, {base.layers} layers of {base.hidden_size}, "
            f"{base.vocabulary:,} tokens in its vocabulary"
        ),
        "vectors": (
            f"{base.dimension} numbers, pooling {base.pooling}, compared by {base.similarity}; "
            f"it takes {base.longest} tokens"
        ),
        "vocabulary": fit.sentence,
    }


def _machine(examination: Examination) -> Rows:
    machine = examination.machine
    gpus = (f"{gpu.name}, {size(gpu.free)} of {size(gpu.memory)} free" for gpu in machine.gpus)
    rows = {
        "processor": (
            f"{counted(machine.cores, 'core')}, torch uses {machine.torch_threads}; load {machine.load:.1f}"
        ),
        "GPU": "; ".join(gpus) or "none: everything runs on the processor",
        "memory": f"{size(machine.free_memory)} of {size(machine.memory)} free",
        "disk": f"{size(machine.free_disk)} free at {machine.output}",
    }
    lacking = (f"{', '.join(it.packages)}, for {it.needed_for}: {it.command}" for it in machine.missing)
    return {**rows, **({"not installed": "; ".join(lacking)} if machine.missing else {})}


def _forecast(examination: Examination) -> Rows:
    forecast = examination.forecast
    memory, encoding = forecast.memory, forecast.encoding
    rows = {
        "memory": (
            f"about {size(memory.training)} in a training step of {forecast.batch} passages, "
            f"{size(memory.encoding)} while encoding; {size(memory.available)} are free"
        ),
        "disk": f"up to {size(forecast.disk)}",
    }
    if encoding is None:
        return {**rows, "time": "not measured"}
    rows["encoding"] = (
        f"{1000 * encoding.seconds_per_passage:.1f} ms a passage (median of {encoding.batches} batches): "
        f"{roughly(forecast.encoding_seconds)} for all"
    )
    for stage in forecast.stages:
        rows[stage.name] = (
            f"{roughly(stage.step_seconds)} a step of {forecast.batch} passages ({stage.measured} measured): "
            f"{roughly(stage.pass_seconds)} for one pass over all"
        )
    rows["in all"] = (
        f"{roughly(forecast.seconds)} with one pass of each, the passages encoded before and after"
    )
    if forecast.budget_seconds is not None and forecast.training_share is not None:
        rows["in the time given"] = _within(forecast.budget_seconds, forecast.training_share)
    return rows


def _within(budget: float, share: float) -> str:
    if share == 0.0:
        return f"{roughly(budget)}: less than encoding the passages before and after"
    passes = f"{share:.2f}" if share < 9.995 else f"{share:,.0f}"
    return f"{roughly(budget)}: room for {passes} such passes of training"

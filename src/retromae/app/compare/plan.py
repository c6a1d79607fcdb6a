"""`retromae compare --plan`: what is there, what is to do, what it needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from retromae.app import forecasts
from retromae.app.compare import ground
from retromae.app.compare.finished import Finished, Inspection
from retromae.app.compare.jobs import Job, alike
from retromae.app.compare.settings import Comparison, EvalSet, common_run, fetched, fresh_start
from retromae.app.compare.work import Opened
from retromae.app.forecasts import Need, Speeds, first_known, stated
from retromae.core.words import roughly
from retromae.text.rows import Rows
from retromae.training.settings import PretrainConfig


def plan_lines(comparison: Comparison, jobs: Sequence[Job], speeds: Speeds) -> Iterator[str]:
    """Of these jobs."""
    ground.check(comparison)
    yield from _data(comparison)
    yield f"{'arm':<24} {'seed':>4}  state"
    inspection, left = Inspection(comparison), list[tuple[Job, Finished]]()
    for job in jobs:
        finished = inspection.of(job)
        state = _state(job, comparison, finished)
        yield f"{job.arm.name:<24} {job.seed:>4}  {state}"
        left += [(job, finished)] if state != "finished" else []
    pretrained = _pretrained(comparison, left, inspection)
    tuned = [
        job
        for job, finished in left
        if job.arm.trains and comparison.finetune is not None and "finetuned" not in finished.results
    ]
    parts = {
        "common start": _common(comparison),
        f"pre-training of {len(pretrained)}": _pretraining(comparison, pretrained),
        f"fine-tuning of {len(tuned)}": sum((_finetuning(comparison, job) for job in tuned), Need()),
        f"tests of {len(left)}": sum((_testing(comparison, job, finished) for job, finished in left), Need()),
    }
    yield ""
    for name, need in parts.items():
        yield f"{name:<24} {forecasts.in_words(need, speeds)}"
    if comparison.budget.kind == "minutes" and pretrained:
        seconds = 60 * comparison.budget.amount * len(pretrained)
        yield f"{'':<24} pre-training takes {roughly(seconds)}, as the budget says"
    if speeds.training is not None and len({job.arm.objective for job in pretrained}) > 1:
        yield f"{'':<24} (as if every objective cost what the measured one does; “What it took” of a report tells)"
    total = sum(parts.values(), Need())
    yield f"{'in all':<24} {total.hours(speeds)}; disk {_disk(comparison, len(jobs))}"


def _data(comparison: Comparison) -> Iterator[str]:
    for name, source in comparison.data.items():
        there = fetched(comparison.folder, name).is_dir()
        yield f"data {name}: {source} ({'fetched' if there else 'to be fetched'})"
    for label, rows, config in (
        ("rows", comparison.rows, comparison.prepare),
        *(
            [("rows of the common start", comparison.common.rows, comparison.common.prepare)]
            if comparison.common
            else []
        ),
    ):
        if config is not None:
            yield f"{label}: prepared from {', '.join(map(_place, config.sources))}"
        elif rows:
            yield f"{label}: {_place(rows)}"
    pairs = (comparison.finetune or {}).get("pairs")
    if pairs:
        yield f"pairs: {_place(pairs)}"
    for test in comparison.tests:
        yield f"test {test.name}, {', '.join(test.metrics)}: {_place(test.beir)}, {test.split}"


def _place(name: str) -> str:
    if name.startswith("hub:"):
        return f"{name} (on the hub)"
    return name if Path(name).exists() else f"{name} (not there yet)"


def _pretrained(
    comparison: Comparison, left: Sequence[tuple[Job, Finished]], inspection: Inspection
) -> list[Job]:
    """Those of the jobs that are still to be pre-trained, and not copied from one that is pre-trained alike."""
    found: list[Job] = []
    for job in (job for job, finished in left if "pretrained" not in finished.results):
        others = alike(comparison, job)
        copied = any(other in found or "pretrained" in inspection.of(other).results for other in others)
        if job.arm.pretrains and not copied:
            found.append(job)
    return found


def _state(job: Job, comparison: Comparison, finished: Finished) -> str:
    if finished.strange:
        return f"made otherwise: {finished.strange}"
    if finished.all(comparison):
        return "finished"
    return "begun" if job.ledger.read() else "to do"


# -- needs ------------------------------------------------------------------------------------------------------


def _common(comparison: Comparison) -> Need:
    common = comparison.common
    if common is None or (common_run(comparison.folder) / "model").is_dir():
        return Need()
    rows = stated(comparison.expected, "common", "tokens") or _rows_tokens(comparison)
    devices = forecasts.devices(comparison.expected)
    return Need(trained=_budgeted(common.budget.kind, common.budget.amount, common.settings, rows, devices))


def _pretraining(comparison: Comparison, jobs: Sequence[Job]) -> Need:
    budget = comparison.budget
    if budget.kind == "flops":
        return sum((_worth(comparison, job) for job in jobs), Need())
    devices, rows = forecasts.devices(comparison.expected), _rows_tokens(comparison)
    tokens = _budgeted(budget.kind, budget.amount, comparison.pretrain, rows, devices)
    return Need(trained=tokens).times(len(jobs))


def _worth(comparison: Comparison, job: Job) -> Need:
    """The text that a budget of operations is worth, counted where rows and start are there."""
    rows = Path(comparison.rows or comparison.folder / "rows")
    if comparison.common is not None:
        start = common_run(comparison.folder) / "model"
    else:
        start = Path(comparison.model or fresh_start(comparison.folder, job.seed))
    if not (rows.is_dir() and start.is_dir()):
        return Need(trained=None)
    places = {"rows": str(rows), "model_name_or_path": str(start), "output_dir": str(job.folder)}
    opened = Opened(comparison.pretraining(job.arm, seed=job.seed, **places), Rows.open(rows))
    return Need(trained=opened.spent(opened.steps(comparison.budget) or 0).tokens)


def _rows_tokens(comparison: Comparison) -> float | None:
    return first_known(
        lambda: stated(comparison.expected, "rows", "tokens"),
        lambda: forecasts.tokens_of(comparison.rows or str(comparison.folder / "rows")),
    )


def _budgeted(
    kind: str, amount: float, settings: dict[str, object], rows: float | None, devices: float
) -> float | None:
    """Tokens of one run, at most; minutes and FLOPs do not say how many. `rows` are those of one pass."""
    if kind == "tokens":
        return amount
    if kind == "epochs":
        return forecasts.product(amount, rows)
    if kind != "steps":
        return None if kind == "flops" else 0.0
    default = PretrainConfig()
    batch = int(str(settings.get("per_device_train_batch_size", default.per_device_train_batch_size)))
    length = int(str(settings.get("max_seq_length", default.max_seq_length)))
    accumulated = int(str(settings.get("gradient_accumulation_steps", 1)))
    budget = settings.get("tokens_per_batch")
    return amount * devices * accumulated * (int(str(budget)) if budget else batch * length)


def _finetuning(comparison: Comparison, job: Job) -> Need:
    config = comparison.finetuning(job.arm)
    queries = first_known(
        lambda: stated(comparison.expected, "pairs", "queries"),
        lambda: forecasts.queries_of(config.pairs, config.split),
    )

    def passages() -> float | None:
        return first_known(
            lambda: stated(comparison.expected, "pairs", "passages"),
            lambda: forecasts.passages_of(config.pairs),
        )

    if comparison.negatives is not None:
        config = replace(config, negatives="mined")
    return forecasts.finetuning(config, queries, passages, forecasts.devices(comparison.expected))


def _testing(comparison: Comparison, job: Job, finished: Finished) -> Need:
    """What is left to encode."""
    if not job.arm.trains:
        return Need()
    length = int((comparison.finetune or {}).get("passage_max_len", 0)) or PretrainConfig().max_seq_length
    left = [test for test in comparison.tests if f"test {test.name}" not in finished.results]
    found = [forecasts.product(_passages(comparison, test), length) for test in left]
    return Need(encoded=None if None in found else sum(tokens for tokens in found if tokens is not None))


def _passages(comparison: Comparison, test: EvalSet) -> float | None:
    return first_known(
        lambda: stated(comparison.expected, "tests", test.name, "passages"),
        lambda: forecasts.passages_of(test.beir),
    )


def _disk(comparison: Comparison, jobs: int) -> str:
    """Rows, the models of every arm, one run's checkpoints, the vectors of one set."""
    expected = comparison.expected
    model = comparison.model
    starts = fresh_start(comparison.folder, comparison.seeds[0])
    parameters = first_known(
        lambda: stated(expected, "parameters"),
        lambda: forecasts.parameters_of(model) if model else forecasts.parameters_of(str(starts)),
    )
    tokens = _rows_tokens(comparison)
    largest = [_passages(comparison, test) for test in comparison.tests]
    most = None if None in largest else max(found for found in largest if found is not None)
    per_job = 2 if comparison.finetune is not None else 1
    need = (
        Need(disk=forecasts.rows_disk(tokens))
        + Need(disk=forecasts.model_disk(parameters)).times(per_job * jobs)
        + Need(disk=forecasts.training_disk(parameters))
        + Need(disk=forecasts.vectors_disk(most, _dimension(comparison)))
    )
    return forecasts.disk(need)


def _dimension(comparison: Comparison) -> float | None:
    """Of the vectors; a model from scratch has the size that its shape says."""
    model = comparison.model
    return first_known(
        lambda: stated(comparison.expected, "dimension"),
        lambda: (
            forecasts.dimension_of(model)
            if model
            else comparison.start.get("hidden_size", PretrainConfig().hidden_size)
        ),
    )

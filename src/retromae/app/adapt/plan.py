"""What is done with a text, a base and so many minutes, and why. `doctor` shows it, `adapt` does it.

The rules follow experiments (docs/adapting.md): an embedder is trained on pairs straight away, because more
reconstruction undoes part of what it knows; a masked language model and a model from nothing need it first.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path

from retromae.app.adapt.settings import AdaptConfig
from retromae.app.adapt.start import SPECIAL
from retromae.app.choice import Choice
from retromae.app.doctor.examine import Examination
from retromae.app.doctor.measure import CONTRASTIVE
from retromae.core.errors import UserError
from retromae.core.files import write_json
from retromae.core.words import roughly

_JUDGED = 0.25  # of the time, at most, for judging
_INDEXED = 0.25  # of the time: above, the base gets no index of its own
_TRAINED = 0.3  # of the time, at least, for training, whatever the rest takes
_OVERHEAD = 6.0  # seconds of a stage for opening a model
_LEAST_SEARCHED = 1000
_PRETRAINED = {
    "masked language model": 0.45,
    "nothing": 0.6,
    "embedder": 0.25,
}  # of the training, where it is done
_AGAIN = 0.4  # of the training on pairs, for a second round with mined negatives
_AGAIN_FROM = 480.0  # seconds of training on pairs that are worth dividing
_RATES = {"masked language model": 1e-4, "nothing": 2e-4, "embedder": 5e-5}
PLAN = "plan.json"


@dataclass(frozen=True)
class Plan:
    """plan.json"""

    kind: str
    objective: str  # none, mlm, retromae, dupmae
    pretrain_seconds: float
    pairs_seconds: float
    """Of the training on pairs, as far as can be told before: it gets what is left until the rest must begin."""
    hard_seconds: float
    """Of mining and the second training on pairs; 0 leaves them out."""
    rest_seconds: float
    """What follows the training: a ranking, the index, the verdict."""
    learning_rate: float
    passage_max_len: int
    """As planned, or what the base takes."""
    eval_passages: int
    base_index: bool
    reasons: list[str]

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def read(cls, run: Path) -> Plan:
        try:
            return cls(**json.loads((run / PLAN).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{run / PLAN} is damaged ({error}); choose another output_dir.") from None


def make(examination: Examination, config: AdaptConfig) -> Plan:
    """Share the minutes out. Speeds are those that the examination measured on this machine."""
    forecast, kind = examination.forecast, examination.base.kind
    if forecast.encoding is None or not forecast.stages:
        needed = max(forecast.memory.training, forecast.memory.encoding) / 2**30
        raise UserError(
            f"this machine has {forecast.memory.available / 2**30:.1f} GiB of memory free and the base needs "
            f"{needed:.1f}; take a smaller base, or a smaller per_device_train_batch_size."
        )
    total = 60 * config.minutes
    objective = _objective(config, kind)
    per_passage = forecast.encoding.seconds_per_passage
    # Rankings that need an encoder: base, trained on pairs, and what else there is.
    systems = 2 + (objective != "none") + (kind == "embedder") + (total >= 2 * _AGAIN_FROM)
    room = int(_JUDGED * total / (systems * per_passage))
    searched = min(config.eval_passages, max(_LEAST_SEARCHED, room))
    indexing = examination.passages.number * per_passage
    both = config.base_index and 2 * indexing <= _INDEXED * total
    ranking = searched * per_passage + _OVERHEAD
    rest = indexing * (1 + both) + 4 * _OVERHEAD
    training = max(total - systems * ranking - rest - examination.seconds, _TRAINED * total)
    share = _PRETRAINED[kind] if objective != "none" else 0.0
    on_pairs = (1 - share) * training
    again = _AGAIN if on_pairs >= _AGAIN_FROM and on_pairs * _AGAIN > 2 * indexing else 0.0
    step = next(stage for stage in forecast.stages if stage.name == CONTRASTIVE).step_seconds
    rate = config.learning_rate if config.learning_rate is not None else _RATES[kind]
    reasons = [
        _why(kind, objective),
        f"{roughly(total)} are shared out: "
        + (f"{roughly(share * training)} of pre-training, " if share else "")
        + f"{roughly((1 - again) * on_pairs)} of training on pairs (some {(1 - again) * on_pairs / step:,.0f} steps "
        f"of {config.per_device_train_batch_size}), "
        + (f"{roughly(again * on_pairs)} of mining and training again, " if again else "")
        + f"{systems} rankings of {searched:,} passages to judge by, {examination.passages.number:,} passages to "
        f"index in {roughly(indexing)}" + (", for the base too." if both else "."),
    ]
    if indexing > _INDEXED * total:
        reasons.append(
            f"Indexing {examination.passages.number:,} passages takes {roughly(indexing)} alone, so that the whole "
            f"takes longer than the {roughly(total)} that were given."
        )
    return Plan(
        kind=kind,
        objective=objective,
        pretrain_seconds=share * training,
        pairs_seconds=(1 - again) * on_pairs,
        hard_seconds=again * on_pairs,
        rest_seconds=rest + ranking,
        learning_rate=rate,
        passage_max_len=min(config.passage_max_len, examination.base.longest - SPECIAL),
        eval_passages=searched,
        base_index=both,
        reasons=reasons,
    )


def _objective(config: AdaptConfig, kind: str) -> str:
    if config.objective != "auto":
        return config.objective
    return "none" if kind == "embedder" else "retromae"


def _why(kind: str, objective: str) -> str:
    if objective == "none":
        return (
            "The base is an embedder: it is trained on pairs from the text straight away, because rebuilding text "
            "first moves it away from what it knows."
            if kind == "embedder"
            else "No pre-training, as was asked; the base is trained on pairs straight away."
        )
    start = "There is no base: a small model is made" if kind == "nothing" else f"The base is a {kind}"
    if kind == "embedder":
        return (
            f"The base is an embedder; as was asked, it is pre-trained on the text ({objective}) first, which often "
            "makes an embedder worse: the training on pairs starts from whichever of the two finds more."
        )
    return f"{start}: it is pre-trained on the text ({objective}) and then trained on pairs, jointly with it."


def choose(examination: Examination, config: AdaptConfig) -> Choice:
    """The same for people, with the command that does it."""
    words = ["retromae", "adapt", *config.sources, "--output_dir", config.output_dir or "runs/adapted"]
    if config.from_scratch:
        words.append("--from_scratch")
    elif config.model_name_or_path:
        words += ["--model_name_or_path", config.model_name_or_path]
    words += ["--minutes", f"{config.minutes:g}"]
    for name in ("pairs", "text_field", "title_field"):
        if getattr(config, name):
            words += [f"--{name}", getattr(config, name)]
    return Choice(make(examination, config).reasons, [shlex.quote(word) for word in words])

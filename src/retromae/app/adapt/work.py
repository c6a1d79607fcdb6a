"""The stages of `adapt`, each a method: what it reads, makes and leaves in the run folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

from retromae.app.adapt import plan as planning
from retromae.app.adapt import recipes, telling
from retromae.app.adapt import verdict as judgement
from retromae.app.adapt.corpus import CorpusFacts, passages_of, write_corpus
from retromae.app.adapt.generate import generate
from retromae.app.adapt.judging import BM25_NAME, LEXICAL, LEXICAL_TERMS, METRIC, Judging
from retromae.app.adapt.plan import Plan
from retromae.app.adapt.settings import AdaptConfig
from retromae.app.adapt.start import open_base
from retromae.app.doctor.examine import MEASURING, examine
from retromae.app.report.page import write_report
from retromae.core.config import read_yaml
from retromae.core.files import remove_folder, replacing_folder
from retromae.models.averaging import RECIPE_FILE, average
from retromae.retrieval.embed import embed_corpus
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.index import build_index
from retromae.retrieval.opening import model_folder
from retromae.text.pairs import Pairs
from retromae.text.prepare import prepare, sample_texts
from retromae.text.vocabulary import bare, open_tokenizer, train_tokenizer
from retromae.training.finetune import finetune
from retromae.training.negatives import MineConfig, mine
from retromae.training.pretrain import pretrain
from retromae.training.session import went_through
from retromae.training.student import RECORD

_MEASURED = 0.05  # of the time, at most, for measuring speeds
_FLAT = 200_000  # passages: above, the index is HNSW
_SAMPLE = 20_000_000  # characters that a vocabulary is made of
_MINED, _MARGIN = 2 * recipes.WINDOW, 0.05


class Work:
    """One run's stages."""

    def __init__(self, config: AdaptConfig, console: Console, spent: Callable[[], float]) -> None:
        """`spent` says how many seconds all stages have taken so far."""
        self.config, self.console, self.spent = config, console, spent
        self.run = Path(config.output_dir)

    @property
    def base(self) -> str | None:
        return self.config.model_name_or_path

    @cached_property
    def plan(self) -> Plan:
        return Plan.read(self.run)

    @cached_property
    def facts(self) -> CorpusFacts:
        return CorpusFacts.read(self.run / "corpus")

    @cached_property
    def judging(self) -> Judging:
        return Judging(self.run, replace(self.config, eval_passages=self.plan.eval_passages), self.facts)

    def say(self, text: str) -> None:
        self.console.print(f"  {text}", highlight=False, soft_wrap=True)

    # -- before training ----------------------------------------------------------------------------------------

    def make_plan(self) -> None:
        found = examine(
            self.config.sources,
            self.base,
            minutes=self.config.minutes,
            output_dir=str(self.run),
            options=self.config.reading,
            settings=self.config,
            measuring=min(MEASURING, _MEASURED * 60 * self.config.minutes),
        )
        plan = planning.make(found, self.config)
        plan.write(self.run / planning.PLAN)
        for sentence in [*found.remarks, *plan.reasons]:
            self.say(sentence)

    def read(self) -> None:
        config = replace(self.config, passage_max_len=self.plan.passage_max_len)
        facts = write_corpus(config, self._tokenizer(), self.run)
        self.say(
            f"{facts.documents:,} documents, {facts.passages:,} passages; {facts.train:,} queries to train on, "
            f"{facts.dev} to choose by, {facts.test} to prove by"
        )

    def _tokenizer(self) -> Any:
        """What measures passages: the base's tokenizer, or one that is made of this text."""
        if self.base is not None:
            return bare(open_tokenizer(recipes.tokenizer_of(self.config, self.run)))
        texts = sample_texts(self.config.sources, self.config.reading, _SAMPLE)
        tokenizer = train_tokenizer(list(texts), self.config.vocabulary, "wordpiece", lowercase=True)
        tokenizer.save_pretrained(str(self.run / "tokenizer"))
        return bare(tokenizer)

    def generate(self) -> str | None:
        if not self.config.generate_url:
            return "no --generate_url was given: a language model behind it would write questions"
        number = generate(self.config, self.run)
        self.say(f"{number:,} questions written by {self.config.generate_model}")
        return None

    def judge_untouched(self) -> None:
        self.judging.rank_bm25()
        self.say(f"BM25: {METRIC} {self.judging.figure(BM25_NAME):.3f} on dev")
        if self.base is not None:
            self._rank("base", open_base(self.base, self.config))

    def _rank(self, name: str, encoder: Encoder) -> None:
        self.judging.rank(name, encoder)
        for system in self.judging.ranked():
            if system.removesuffix(LEXICAL) == name:
                self.say(f"{system}: {METRIC} {self.judging.figure(system):.3f} on dev")

    # -- training -----------------------------------------------------------------------------------------------

    def pretrain(self) -> str | None:
        plan = self.plan
        if plan.objective == "none":
            return plan.reasons[0]
        prepare(recipes.rows(self.config, plan, self.run), progress=False)
        folder = self.run / "stages" / "pretrained"
        settings = recipes.pretraining(self.config, plan, self.run, folder)
        resume = (folder / "config.yaml").is_file()
        went_through(pretrain(settings, resume=resume, console=self.console))
        terms = LEXICAL_TERMS if plan.objective == "dupmae" else None
        self._rank(
            "pretrained",
            Encoder.open(folder, lexical_terms=terms, max_query_length=self.config.query_max_len),
        )
        return None

    def train(self) -> None:
        self._finetune(
            "contrastive", self._start(), self._seconds(self.plan.pairs_seconds, self.plan.hard_seconds)
        )

    def _seconds(self, planned: float, later: float) -> float:
        """What is left until the rest must begin, but at least half of what was planned."""
        left = 60 * self.config.minutes - self.spent() - self.plan.rest_seconds - later
        return max(left, planned / 2)

    def _start(self) -> str:
        """What is trained on pairs: what was pre-trained; an embedder itself, unless pre-training made it better."""
        pretrained = self.run / "stages" / "pretrained"
        if self.base is None or not pretrained.is_dir():
            return str(pretrained) if self.base is None else model_folder(self.base)
        if self.plan.kind == "embedder" and self.judging.figure("pretrained") < self.judging.figure("base"):
            self.say(
                "the base finds more than what was pre-trained, so the training on pairs starts from the base"
            )
            return model_folder(self.base)
        return str(pretrained)

    def train_again(self) -> str | None:
        if not self.plan.hard_seconds:
            return "the time is better spent on one training than on two short ones"
        negatives = self.run / "stages" / "negatives"
        first = self.run / "stages" / "contrastive"
        if not negatives.is_dir():
            data = Pairs.open(self.run / "corpus", "train", cache=self.run / "pairs")
            found = mine(
                Encoder.open(first),
                data,
                self.run / "stages" / ".negatives.work",
                MineConfig(depth=_MINED, relative_margin=_MARGIN),
                progress=True,
            )
            found.write(negatives, data)
            self.say(f"{len(found.lists.members):,} negatives mined for {len(data):,} queries")
        self._finetune(
            "hard",
            str(first),
            self._seconds(self.plan.hard_seconds, 0),
            negatives,
        )
        return None

    def _finetune(self, name: str, start: str, seconds: float, negatives: Path | None = None) -> None:
        folder = self.run / "stages" / name
        resume = (folder / "config.yaml").is_file()
        if resume:  # the time that it was given at first
            seconds = 60 * float(read_yaml(folder / "config.yaml")["minutes"])
        settings = recipes.on_pairs(self.config, self.plan, self.run, folder, start, seconds, negatives)
        went_through(finetune(settings, resume=resume, console=self.console))
        self._rank(name, Encoder.open(folder))

    def average(self) -> str | None:
        """Half way back to the base: made-up queries train, and people ask otherwise (docs/adapting.md)."""
        share = self.config.trained_share
        if self.plan.kind != "embedder" or self.base is None or share == 1:
            return "what was trained is taken as it is"
        trained = self.run / "stages" / ("hard" if self.plan.hard_seconds else "contrastive")
        out = self.run / "stages" / "averaged" / "model"
        # The trained one first: the average reads texts as long as that and the base do in this run.
        average([model_folder(str(trained)), model_folder(self.base)], out, weights=[share, 1 - share])
        self._rank("averaged", Encoder.open(out))
        return None

    # -- after training -----------------------------------------------------------------------------------------

    def judge(self) -> None:
        found = judgement.judge(self.judging)
        telling.write(found, self.judging, self.run)
        source = self._model_of(found.returned.stage)
        encoder = self._encoder_of(found.returned)
        with replacing_folder(self.run / "model") as folder:
            encoder.model.save_pretrained(str(folder))
            for name in (RECORD, RECIPE_FILE):  # what it was trained on, for whoever looks for leakage
                if (Path(source) / "model" / name).is_file():
                    shutil.copy(Path(source) / "model" / name, folder)

    def _model_of(self, stage: str) -> str:
        if stage in ("base", BM25_NAME):
            return model_folder(self.base) if self.base else str(self.run / "stages" / "contrastive")
        return str(self.run / "stages" / stage)

    def _encoder_of(self, returned: judgement.System) -> Encoder:
        stage = returned.stage
        if stage in ("base", BM25_NAME) and self.base:
            return open_base(self.base, self.config)
        terms = LEXICAL_TERMS if LEXICAL in returned.name else None
        return Encoder.open(self._model_of(stage), lexical_terms=terms)

    def index(self) -> None:
        self._index(Encoder.open(self.run / "model"), self.run / "index")

    def index_base(self) -> str | None:
        if self.base is None:
            return "there is no base"
        if not self.plan.base_index:
            return "its time is better spent on training"
        self._index(open_base(self.base, self.config), self.run / "base_index")
        return None

    def _index(self, encoder: Encoder, folder: Path) -> None:
        vectors = folder.with_name(f".{folder.name}.vectors")
        store = embed_corpus(encoder, lambda: passages_of(self.run), vectors, progress=True)
        assert store is not None
        build_index(store, folder, "flat" if len(store) <= _FLAT else "hnsw")
        remove_folder(vectors)

    def report(self) -> None:
        write_report(self.run)

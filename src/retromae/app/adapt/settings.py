"""The settings of `adapt`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from retromae.core.config import setting
from retromae.core.errors import UserError
from retromae.text.sources import ReadOptions
from retromae.text.tables import Fields

Objective = Literal["auto", "none", "mlm", "retromae", "dupmae"]


@dataclass
class AdaptConfig:
    """Settings of `retromae adapt`."""

    sources: list[str] = setting([], "folders and files of text, BEIR folders or hub:NAME")
    output_dir: str = setting("", "run folder to write")
    model_name_or_path: str | None = setting(
        None, "encoder to start from: a folder or hub name (default: MiniLM, from its package or the hub)"
    )
    from_scratch: bool = setting(False, "start from nothing: a small model and a vocabulary of this text")
    minutes: float = setting(20.0, "time for everything, shared out among the stages")
    pairs: str | None = setting(
        None, "queries with the passages that answer them, if there are some: they train and judge, too"
    )
    seed: int = setting(42, "what is held out, which sentences ask, batches and masks are functions of it")

    # the text
    passage_max_len: int = setting(128, "tokens of a passage")
    query_max_len: int = setting(48, "tokens of a query")
    text_field: str | None = setting(None, "field or column with the text, where it has an unusual name")
    title_field: str | None = setting(None, "field or column with the title, where it has an unusual name")
    questions_from: list[str] = setting(
        ["title", "sentence"],
        "what asks: title, sentence (cut out of its passage), span (it asks for the neighbours, too)",
    )

    # questions that a language model writes
    generate_url: str | None = setting(
        None, "also let a model behind this address (OpenAI's protocol, …/v1) write questions for passages"
    )
    generate_model: str = setting("", "its name there")
    generate_key: str = setting("OPENAI_API_KEY", "environment variable that holds the key, if one is needed")
    generate_most: int = setting(2000, "passages that it writes a question for, at most")

    # training
    objective: Objective = setting(
        "auto", "pre-training on the text before the pairs; auto: retromae or none, as the start needs it"
    )
    learning_rate: float | None = setting(None, "of the training on pairs (default: as the start needs it)")
    per_device_train_batch_size: int = setting(32, "queries of a batch")
    trained_share: float = setting(
        0.5,
        "an embedder's weights are averaged with those of the base; the share of what was trained (1: all)",
    )
    vocabulary: int = setting(8192, "from scratch: pieces of the tokenizer")
    num_hidden_layers: int = setting(4, "from scratch: layers")
    hidden_size: int = setting(256, "from scratch: hidden size")

    # judging
    eval_queries: int = setting(900, "held-out queries: a third chooses, two thirds prove")
    eval_passages: int = setting(
        5000, "passages that are searched when judging: all answers, BM25's best and random ones"
    )
    judge_by: list[str] = setting(
        ["title", "sentence"], "which of the questions made from the text judge, where there are no pairs"
    )
    language: str = setting("english", "whose words BM25 stems (a Snowball name, or none)")
    base_index: bool = setting(True, "also index with the untouched base, to look at both side by side")

    @property
    def held_out(self) -> dict[str, int]:
        """Queries that are wanted for each split."""
        return {"dev": self.eval_queries // 3, "test": self.eval_queries - self.eval_queries // 3}

    @property
    def reading(self) -> ReadOptions:
        return ReadOptions(fields=Fields(title=self.title_field, text=self.text_field))


def check(config: AdaptConfig) -> None:
    """Refuse what makes no sense before anything is read."""
    if not config.sources:
        raise UserError("there is nothing to adapt to: name a folder or a file with text.")
    if not config.output_dir:
        raise UserError("Please say output_dir: give --output_dir or write it into the settings file.")
    if config.from_scratch and config.model_name_or_path:
        raise UserError("from_scratch starts from nothing: leave out model_name_or_path or it.")
    for name, least in {
        "minutes": 0.1,
        "passage_max_len": 16,
        "query_max_len": 4,
        "generate_most": 1,
        "per_device_train_batch_size": 2,
        "vocabulary": 200,
        "num_hidden_layers": 1,
        "hidden_size": 16,
        "eval_queries": 30,
        "eval_passages": 50,
    }.items():
        if getattr(config, name) < least:
            raise UserError(f"{name} must be at least {least}, not {getattr(config, name)}.")
    if not 0 < config.trained_share <= 1:
        raise UserError(f"trained_share is a share above 0, up to 1, not {config.trained_share}.")
    unknown = set(config.questions_from) - {"title", "sentence", "span"}
    if unknown or not config.questions_from:
        raise UserError("questions_from takes title, sentence and span, one at least.")
    unknown = set(config.judge_by) - (set(config.questions_from) - {"span"})
    if unknown or not config.judge_by:
        raise UserError("judge_by takes title and sentence, and of them what questions_from has.")
    if config.generate_url and not config.generate_model:
        raise UserError("generate_url needs generate_model, the model's name there.")

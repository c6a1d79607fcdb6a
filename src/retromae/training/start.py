"""What a run starts from: a model and its tokenizer, the objective on top, and the parts that a checkpoint keeps."""

from __future__ import annotations

from retromae.core.errors import UserError
from retromae.models.backbone import Backbone
from retromae.models.checkpoint import Checkpoint, open_checkpoint, open_tokenizer
from retromae.objectives import Objective, Vocabulary, load
from retromae.text.rows import Rows
from retromae.text.vocabulary import tokenizer_fingerprint
from retromae.training.settings import PretrainConfig, Resolved


def open_start(config: PretrainConfig, rows: Rows) -> Checkpoint:
    """The model to start from: a checkpoint, or fresh weights around the tokenizer of the rows."""
    if config.model_name_or_path is not None:
        start = open_checkpoint(
            config.model_name_or_path,
            attn_implementation=config.attn_implementation,
            dropout=config.dropout,
        )
        _check_tokenizer(rows, start)
        return start
    if rows.tokenizer_path is None:
        raise UserError(
            f"'{config.rows}' holds no tokenizer, so a model from scratch cannot be made for it; "
            "give model_name_or_path, or prepare the rows with `retromae prepare`."
        )
    tokenizer = open_tokenizer(rows.tokenizer_path)
    backbone = Backbone.from_scratch(
        config.num_hidden_layers,
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
        len(tokenizer),
        config.max_seq_length,
        0.1 if config.dropout is None else config.dropout,
        config.model_type,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation=config.attn_implementation,
    )
    return Checkpoint(backbone, tokenizer, {}, {}, list(backbone.fresh), config.max_seq_length)


def _check_tokenizer(rows: Rows, start: Checkpoint) -> None:
    """Rows that we prepared know which tokenizer their ids belong to; foreign ones are checked batch by batch."""
    if rows.info is not None and rows.info.tokenizer_fingerprint != tokenizer_fingerprint(start.tokenizer):
        raise UserError(
            f"'{rows.path}' was prepared with another tokenizer than the model's; prepare the text again with "
            "--tokenizer set to the model."
        )


def build_objective(settings: Resolved, start: Checkpoint) -> Objective:
    """The objective on its backbone, its heads read from the checkpoint where it has them."""
    config = settings.run
    kind = load(config.objective)
    if kind.needs_dropout and config.dropout is None and not start.backbone.drops:
        raise UserError(
            f"{config.objective} tells two views of a text apart by dropout, and the model it starts from has none; "
            "set dropout, to 0.1 for example."
        )
    objective = kind(
        start.backbone, settings.objective, Vocabulary.of(start.tokenizer, start.backbone), config.seed
    )
    objective.take_heads(start.heads)
    return objective

"""Are two models of one make, so that their weights may be put together? The first difference is named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from retromae.core.errors import UserError
from retromae.models.folders import ModelFolder
from retromae.models.importing import stated_pooling

# Settings of a configuration that no vector depends on, or that a trainer writes on its own.
_IRRELEVANT = {
    *("transformers_version", "dtype", "torch_dtype", "architectures", "tokenizer_class", "auto_map"),
    *("use_cache", "id2label", "label2id", "problem_type", "finetuning_task", "gradient_checkpointing"),
    *("return_dict", "output_attentions", "output_hidden_states", "initializer_range", "initializer_factor"),
    *("legacy", "tie_word_embeddings", "chunk_size_feed_forward"),
}
_PROBE = "The 3 Café-boats aren't in HARBOUR no. 42: naïve, 海 & ½!"


def check_alike(folders: Sequence[ModelFolder]) -> None:
    """Refuse models that differ in architecture, tokenizer or modules; weights are not looked at.

    A plain encoder states no modules and agrees with those that a bare encoder can be given: whatever has no
    weights of its own.
    """
    for other in folders[1:]:
        _check_configs(folders[0], other)
        _check_tokenizers(folders[0], other)
    stated = [folder for folder in folders if folder.modules]
    for other in stated[1:]:
        _check_modules(stated[0], other)


def usage_differences(folders: Sequence[ModelFolder]) -> list[str]:
    """One sentence for each thing that models state differently and that no weight depends on."""
    stated = [folder for folder in folders if folder.modules]
    return [
        f"{stated[0]} and {other} state another {name} ({value!r} and {other.usage[name]!r}); the average "
        f"has that of {stated[0]}."
        for other in stated[1:]
        for name, value in stated[0].usage.items()
        if other.usage[name] != value
    ]


def _check_configs(one: ModelFolder, other: ModelFolder) -> None:
    if one.config.model_type != other.config.model_type:
        raise UserError(
            f"{one} is a {one.config.model_type} model and {other} a {other.config.model_type} model; only models "
            "of one architecture can be averaged."
        )
    for key, here, there in _config_differences(one.config, other.config):
        raise UserError(
            f"{one} and {other} differ in {key} ({here!r} and {there!r}); only models "
            "of one architecture can be averaged."
        )


def _config_differences(one: PreTrainedConfig, other: PreTrainedConfig) -> Iterator[tuple[str, Any, Any]]:
    """Settings that both have (so those of their class) and that matter."""
    mine, theirs = one.to_dict(), other.to_dict()
    for key in sorted(mine.keys() & theirs.keys() - _IRRELEVANT):
        chosen_by_trainers = "dropout" in key or key.endswith("_token_id") or key.startswith("_")
        if not chosen_by_trainers and mine[key] != theirs[key]:
            yield key, mine[key], theirs[key]


def _check_tokenizers(one: ModelFolder, other: ModelFolder) -> None:
    difference = _tokenizer_difference(one.tokenizer, other.tokenizer)
    if difference:
        raise UserError(
            f"the tokenizers of {one} and {other} differ: {difference}; only models of one vocabulary can be averaged."
        )


def _tokenizer_difference(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> str:
    """In words; "" where both have one vocabulary and cut a text of many kinds of characters alike."""
    mine, theirs = one.get_vocab(), other.get_vocab()
    odd = min(mine.items() ^ theirs.items(), key=lambda item: (item[1], item[0]), default=None)
    if odd is not None:
        token = odd[0]
        here, there = (str(vocabulary.get(token, "absent")) for vocabulary in (mine, theirs))
        return f"the token {token!r} is {here} in one and {there} in the other"
    if one(_PROBE)["input_ids"] != other(_PROBE)["input_ids"]:
        return f"they cut {_PROBE!r} differently"
    return ""


def _check_modules(one: ModelFolder, other: ModelFolder) -> None:
    here, there = ([module.kind for module in folder.modules] for folder in (one, other))
    if here != there:
        raise UserError(
            f"{one} is made of {', '.join(here)} and {other} of {', '.join(there)}; only models of the same modules "
            "can be averaged."
        )
    for mine, theirs in zip(one.modules[1:], other.modules[1:]):
        first, second = one.module_config(mine), other.module_config(theirs)
        if mine.kind == "Pooling":
            first, second = {"pooling": stated_pooling(first)}, {"pooling": stated_pooling(second)}
        for key in sorted(first.keys() & second.keys()):
            if first[key] != second[key]:
                raise UserError(
                    f"the {mine.kind} of {one} and {other} differs in {key} ({first[key]!r} and {second[key]!r}); "
                    "only models of the same modules can be averaged."
                )

"""Tiny models of every family and tiny tokenizers of every kind, made here, offline, in milliseconds.

`tiny_model(family, folder)` writes model and tokenizer in the hub's layout. The models come from transformers
alone, not from our code, so that tests compare our code with something else. Every weight is random, biases
and LayerNorms too: a part that is forgotten or read twice changes the output.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast

Kind = Literal["wordpiece", "bytelevel", "unigram"]

SENTENCES = [
    "The harbour master counts the boats twice before the evening bell.",
    "A kettle of soup feeds seven hikers, or three very hungry ones!",
    "Salt keeps fish for months; ice keeps it for a week.",
    "Why does the old bridge hum when the wind turns north-east?",
    "Two clocks in the tower disagree by four minutes and 30 seconds.",
    "Bees find the orange grove by its smell, not by its colour.",
    "The librarian's cat sleeps on maps of countries it will never see.",
    "Copper wire carries the signal, glass fibre carries far more of it.",
    "Rain on the tin roof drowned the second half of the lecture.",
    "An apprentice learns to sharpen the plane before using the plane.",
    "Glaciers move slowly: about a metre a day in summer, less in winter.",
    "She traded her bicycle for a telescope and never looked back.",
    "The recipe wants 250 grams of flour and patience.",
    "Every lighthouse along this coast has its own rhythm of flashes.",
    "Owls hunt by ear; their faces gather sound like a dish.",
    "The train was late again, so the station café sold out of bread.",
    "Clay from the river bank makes good bricks and bad pots.",
    "Nobody remembered who had painted the north wall green.",
    "A map without a scale is only a picture of a place.",
    "Volcanic soil, rich in minerals, suits vines and potatoes alike.",
    "He measured the well with a knotted rope and a stone.",
    "The orchestra tuned to the oboe, then waited for the lights.",
    "Moss grows on the shaded side of trees, and on all sides of wet ones.",
    "If the dam is opened too early, the lower fields flood.",
]

# The order of special tokens is their ids; which one plays which role follows below.
_BERT_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_ROBERTA_SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_DEBERTA_SPECIALS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
_ALBERT_SPECIALS = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]

_TOKENIZERS: dict[str, tuple[Kind, list[str]]] = {
    "bert": ("wordpiece", _BERT_SPECIALS),
    "roberta": ("bytelevel", _ROBERTA_SPECIALS),
    "xlm-roberta": ("unigram", _ROBERTA_SPECIALS),
    "camembert": ("unigram", _ROBERTA_SPECIALS),
    "distilbert": ("wordpiece", _BERT_SPECIALS),
    "electra": ("wordpiece", _BERT_SPECIALS),
    "deberta": ("bytelevel", _DEBERTA_SPECIALS),
    "deberta-v2": ("unigram", _DEBERTA_SPECIALS),
    "mpnet": ("wordpiece", _ROBERTA_SPECIALS),
    "albert": ("unigram", _ALBERT_SPECIALS),
    "modernbert": ("bytelevel", _DEBERTA_SPECIALS),
}
FAMILIES = list(_TOKENIZERS)

LENGTH = 64  # usable positions of every tiny model


def tiny_tokenizer(
    kind: Kind = "wordpiece", specials: list[str] | None = None, extra_inputs: tuple[str, ...] = ()
) -> PreTrainedTokenizerFast:
    """A tokenizer of 160 (byte-level: 320) tokens made from `SENTENCES`, the same one every time."""
    if specials is None:
        specials = {"wordpiece": _BERT_SPECIALS, "bytelevel": _ROBERTA_SPECIALS}.get(kind, _ALBERT_SPECIALS)
    role = {
        name: next(token for token in specials if name in token.lower()) for name in ("pad", "unk", "mask")
    }
    role["cls"], role["sep"] = ("[CLS]", "[SEP]") if "[CLS]" in specials else ("<s>", "</s>")
    tokenizer = _train(kind, specials, role["unk"])
    cls, sep = role["cls"], role["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B {sep}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{f"{name}_token": token for name, token in role.items()},
        model_max_length=LENGTH,
        model_input_names=["input_ids", *extra_inputs, "attention_mask"],
    )


def _train(kind: Kind, specials: list[str], unknown: str) -> Tokenizer:
    """Only byte-level BPE is really trained: the other two trainers give another vocabulary on every run."""
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token=unknown))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        pieces = _frequent_pieces(tokenizer, "##", 160 - len(specials))
        vocabulary = {piece: i for i, piece in enumerate([*specials, *pieces])}
        tokenizer.model = models.WordPiece(vocabulary, unk_token=unknown)
    elif kind == "bytelevel":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=specials,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(SENTENCES, trainer)
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        pieces = _frequent_pieces(tokenizer, "", 160 - len(specials))
        total = sum(pieces.values())
        scored = [(piece, math.log(count / total)) for piece, count in pieces.items()]
        tokenizer.model = models.Unigram(
            [*((token, 0.0) for token in specials), *scored], unk_id=specials.index(unknown)
        )
    return tokenizer


def _frequent_pieces(tokenizer: Tokenizer, inside: str, size: int) -> dict[str, int]:
    """All single characters of `SENTENCES`, then the longest and most frequent pieces of words.

    `inside` marks a piece that does not begin its word.
    """
    pieces: Counter[str] = Counter()
    for sentence in SENTENCES:
        normal = tokenizer.normalizer.normalize_str(sentence)
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal):
            for start in range(len(word)):
                for end in range(start + 1, min(len(word), start + 7) + 1):
                    pieces[(inside if start else "") + word[start:end]] += 1

    def usefulness(piece: str) -> tuple[bool, int, str]:
        length = len(piece.removeprefix(inside))
        return length > 1, -pieces[piece] * length, piece

    return {piece: pieces[piece] for piece in sorted(pieces, key=usefulness)[:size]}


def family_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """The tiny tokenizer of the kind that a family usually has, with its special tokens."""
    return tiny_tokenizer(*_TOKENIZERS[family], extra_inputs=("token_type_ids",) if family == "bert" else ())


def tiny_config(family: str, vocabulary: int, pad_token_id: int, **settings: Any) -> Any:
    """Two layers of hidden size 32 with the family's own peculiarities switched on."""
    peculiar: dict[str, dict[str, Any]] = {
        "distilbert": {"hidden_dim": 48},
        "electra": {"embedding_size": 16},
        "albert": {"embedding_size": 16},
        "deberta": {
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "position_biased_input": False,
        },
        "deberta-v2": {
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
        },
        "modernbert": {
            "local_attention": 8,
            **dict.fromkeys(["bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"]),
        },
    }
    after_padding = family in ("roberta", "xlm-roberta", "camembert", "mpnet")
    sizes = {
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "vocab_size": vocabulary,
        "max_position_embeddings": LENGTH + (pad_token_id + 1 if after_padding else 0),
        "pad_token_id": pad_token_id,
    }
    return AutoConfig.for_model(family, **{**sizes, **peculiar.get(family, {}), **settings})


def random_model(config: Any, seed: int = 0) -> PreTrainedModel:
    """A masked-LM model of `config` with every weight random; torch's generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForMaskedLM.from_config(config)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight), alpha=0.05)
    return model


def tiny_model(family: str, folder: Path, **settings: Any) -> Path:
    """Write a tiny model of `family` and its tokenizer to `folder` as the hub lays them out."""
    tokenizer = family_tokenizer(family)
    config = tiny_config(family, len(tokenizer), tokenizer.pad_token_id, **settings)
    random_model(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

"""The tokenizer that rows are written with: an existing one, or one trained on the sources."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from retromae.core.errors import UserError
from retromae.text.words import backend_of

TokenizerType = Literal["wordpiece", "bpe"]

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_PREFIX = "##"
_MODEL_LENGTH = 512


def open_tokenizer(name: str) -> Any:
    """A fast tokenizer by hub name or folder."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"The tokenizer {name!r} cannot be opened ({reason}); give a hub name or a folder."
        ) from error
    backend_of(tokenizer)
    return tokenizer


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """sha256 of everything that decides how text becomes ids (padding, truncation and framing do not)."""
    layout = json.loads(backend_of(tokenizer).to_str())
    deciding = {name: layout.get(name) for name in ("normalizer", "pre_tokenizer", "model", "added_tokens")}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def bare(tokenizer: Any) -> Any:
    """A copy of the `tokenizers` object, set up for turning corpus text into ordinary ids.

    No padding, no truncation, and special tokens are not recognised: a "[MASK]" that stands in a web page is
    text and must not become the id that training draws meaning from.
    """
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(backend_of(tokenizer).to_str())
    backend.no_padding()
    backend.no_truncation()
    backend.encode_special_tokens = True
    return backend


def train_tokenizer(texts: Sequence[str], size: int, kind: TokenizerType, lowercase: bool) -> Any:
    """A tokenizer of about `size` pieces with BERT's special tokens, as a fast tokenizer of transformers.

    The same texts always give the same pieces with the same ids.
    """
    from transformers import PreTrainedTokenizerFast

    smallest = 256 + len(_SPECIAL) if kind == "bpe" else 2 * len(_SPECIAL)
    if size < smallest:
        raise UserError(
            f"A {kind} vocabulary of {size} is too small; train one of at least {smallest} pieces."
        )
    backend = (
        _train_bpe(texts, size, lowercase) if kind == "bpe" else _train_wordpiece(texts, size, lowercase)
    )
    names = dict(
        zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), _SPECIAL, strict=True)
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        model_max_length=_MODEL_LENGTH,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **names,
    )


def _frame(backend: Any) -> Any:
    """[CLS] text [SEP], and the special tokens made known to the tokenizer."""
    from tokenizers import processors

    backend.add_special_tokens(_SPECIAL)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return backend


def _train_wordpiece(texts: Sequence[str], size: int, lowercase: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    def bare(model: Any) -> Any:
        backend = Tokenizer(model)
        backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece(prefix=_PREFIX)
        return backend

    learner = bare(models.WordPiece(unk_token="[UNK]"))
    alphabet = _alphabet(
        (learner.normalizer.normalize_str(text) for text in texts), (size - len(_SPECIAL)) // 3
    )
    # The trainer numbers the "##" forms of single characters in the order of a hash table, which differs from
    # run to run and decides ties later. Named up front as special tokens they have fixed numbers; the model
    # that is kept is built anew from the pieces, so that they are ordinary again.
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=[*_SPECIAL, *(_PREFIX + character for character in alphabet)],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=_PREFIX,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    pieces = learner.get_vocab(with_added_tokens=True)
    return _frame(bare(models.WordPiece(pieces, unk_token="[UNK]", max_input_chars_per_word=100)))


def _alphabet(texts: Iterable[str], limit: int) -> list[str]:
    """The most frequent characters, in a fixed order."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    frequent = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
    return sorted(frequent[:limit])


def _train_bpe(texts: Sequence[str], size: int, lowercase: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Lowercase()] if lowercase else [normalizers.NFC()]
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=_SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return _frame(backend)

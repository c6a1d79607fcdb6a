"""Texts → vectors: one tokenisation, batches of similar length under a token budget, results in input order.

The forward pass is the model's own chain of sentence-transformers modules, so vectors equal those of
`SentenceTransformer.encode`; what differs is how texts are tokenised and batched.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array, vstack
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from retromae.core.errors import UserError
from retromae.core.packing import by_length, pad
from retromae.retrieval.first_token import FirstToken
from retromae.retrieval.opening import PoolingMode, fingerprint, open_model, pooling_of
from retromae.retrieval.representation import Task, representation_of
from retromae.retrieval.vectors import Explanation, Vectors, explain

Precision = Literal["float32", "bfloat16"]
CPU_TOKENS, GPU_TOKENS = 1024, 65536  # tokens of a batch, padding included
_PROMPTS: dict[Task, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}


class Encoder:
    """A query and passage encoder. Make one with `open`, or give it any SentenceTransformer."""

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        max_query_length: int | None = None,
        max_passage_length: int | None = None,
        query_prompt: str | None = None,
        passage_prompt: str | None = None,
        normalize: bool | None = None,
        precision: Precision = "float32",
        batch_tokens: int | None = None,
        source: str = "",
    ) -> None:
        """Lengths left out are the model's own; prompts left out are those that the model states.

        `normalize` left out normalises where the model's similarity is the cosine, so that the dot product of
        two vectors is always the model's score. `batch_tokens` is the budget of one batch.
        """
        self.model = model.eval()
        self.source = source
        self.pooling = pooling_of(model)
        self.similarity: str = str(model.similarity_fn_name)
        if self.similarity not in ("dot", "cosine"):
            raise UserError(
                f"the model compares vectors by {self.similarity}; only dot and cosine are searched."
            )
        self._own, self._first = representation_of(model), FirstToken(model)
        if self._own is not None and normalize:
            raise UserError("DupMAE's two halves are added up, so its dense half cannot be normalised.")
        self.normalize = self.similarity == "cosine" if normalize is None else normalize
        self.query_prompt = self._prompt("query") if query_prompt is None else query_prompt
        self.passage_prompt = self._prompt("document") if passage_prompt is None else passage_prompt
        self.max_query_length = self._length("query", max_query_length)
        self.max_passage_length = self._length("document", max_passage_length)
        self.batch_tokens = batch_tokens or (CPU_TOKENS if self.model.device.type == "cpu" else GPU_TOKENS)
        _ = self.fingerprint  # of the weights as they are stored, before they are rounded
        self.precision = precision
        if precision == "bfloat16":
            self.model = self.model.to(torch.bfloat16)

    @classmethod
    def open(
        cls,
        path_or_name: str | Path,
        *,
        pooling: PoolingMode | None = None,
        lexical_terms: int | None = None,
        device: str | None = None,
        **settings: Any,
    ) -> Self:
        """Open our checkpoint, a SentenceTransformer folder, or a plain encoder's folder or hub name.

        A plain encoder does not state its pooling: state it, or be warned which one was taken. `lexical_terms`
        (384 in the paper) opens a pre-trained checkpoint with DupMAE's lexical half. `settings` go to
        `Encoder`; the device is the GPU where there is one.
        """
        model = open_model(path_or_name, pooling=pooling, lexical_terms=lexical_terms, device=device)
        return cls(model, source=str(path_or_name), **settings)

    @property
    def settings(self) -> dict[str, Any]:
        """What `Encoder.open(source, **settings)` needs to make the same vectors again."""
        representation = self._own is not None
        names = ("max_query_length", "max_passage_length", "query_prompt", "passage_prompt", "normalize")
        return {
            **{name: getattr(self, name) for name in names},
            "pooling": self.pooling if self.pooling in ("cls", "mean") and not representation else None,
            "lexical_terms": self._own.terms if self._own is not None else None,
        }

    @property
    def dimension(self) -> int:
        """Of the dense vectors."""
        return int(
            self._own.dimension if self._own is not None else self.model.get_embedding_dimension() or 0
        )

    @property
    def vocabulary(self) -> int | None:
        """The width of the lexical half, None where there is none."""
        return self._own.backbone.vocab_size if self._own is not None else None

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(
            self.model, prompts=[self.query_prompt, self.passage_prompt], normalize=self.normalize
        )

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """One row per query; an empty query is refused."""
        for number, text in enumerate(texts):
            if not text.strip():
                raise UserError(
                    f"query {number + 1} of {len(texts)} is empty; leave it out or give it a text."
                )
        return self._encode(list(texts), "query")

    def encode_passages(self, texts: Sequence[str], titles: Sequence[str] | None = None) -> Vectors:
        """One row per passage; a title is set before its text, with a space between."""
        if titles is not None:
            if len(titles) != len(texts):
                raise ValueError(f"{len(titles)} titles for {len(texts)} texts")
            texts = [f"{title} {text}" if title else text for title, text in zip(titles, texts)]
        return self._encode(list(texts), "document")

    def explain(self, query: str, passage: str, title: str = "", most: int = 10) -> Explanation:
        """Why the passage gets its score for the query: the dense part, the lexical part and its terms."""
        queries, passages = self.encode_queries([query]), self.encode_passages([passage], [title])
        return explain(queries, passages, self.term, most)

    def term(self, number: int) -> str:
        """The text of a vocabulary id."""
        return str(self.model.tokenizer.decode([number])).strip()

    # Settings

    def _prompt(self, task: Task) -> str:
        prompts = self.model.prompts
        names = [name for name in (*_PROMPTS[task], self.model.default_prompt_name) if name in prompts]
        return str(prompts[names[0]]) if names else ""

    def _length(self, task: Task, wanted: int | None) -> int:
        longest = self.model.max_seq_length
        if self._own is not None:
            longest = self._own.length_of(task)
        elif isinstance(self.model[0], Transformer):
            longest = getattr(self.model[0], f"{task}_length", None) or longest
        if wanted is not None and not 3 <= wanted <= (self.model.max_seq_length or wanted):
            raise UserError(
                f"a {task} of {wanted} tokens does not fit: this model takes 3 to {self.model.max_seq_length}."
            )
        return wanted or longest or 512

    # Encoding

    def _encode(self, texts: list[str], task: Task) -> Vectors:
        if not texts:
            lexical = None if self.vocabulary is None else csr_array((0, self.vocabulary), dtype=np.float32)
            return Vectors(np.empty((0, self.dimension), dtype=np.float32), lexical, self.fingerprint)
        if not self._reads_tokens():
            return self._encode_by_model(texts, task)
        tokens, lengths, cut = self._tokenize(texts, task)
        starts = np.cumsum(lengths) - lengths
        dense = torch.empty(len(texts), self.dimension, device=self.model.device)
        batches = by_length(lengths, self.batch_tokens)
        lexical = []
        for rows in batches:
            features = self._features(tokens, starts[rows], lengths[rows], task)
            with torch.inference_mode(), self._first.alone(features["input_ids"]):
                out = self.model(features, task=task)
                dense[torch.from_numpy(rows).to(dense.device)] = self._finish(out)
                if self._own is not None:
                    lexical.append(_sparse(out["lexical_embedding"], self._own.terms, task))
        joined = None if self._own is None else _in_order(lexical, batches)
        return Vectors(dense.cpu().numpy(), joined, self.fingerprint, cut)

    def _reads_tokens(self) -> bool:
        """Can the first module be handed token ids? Others (chat templates, static words, …) read texts."""
        first = self.model[0]
        if not isinstance(self.model.tokenizer, PreTrainedTokenizerBase):
            return False
        return self._own is not None or (
            isinstance(first, Transformer)
            and first.transformer_task == "feature-extraction"
            and list(first.modality_config) == ["text"]
            and first.query_expansion is None
        )

    def _encode_by_model(self, texts: list[str], task: Task) -> Vectors:
        prompt = self.query_prompt if task == "query" else self.passage_prompt
        encode = self.model.encode_query if task == "query" else self.model.encode_document
        dense = encode(texts, prompt=prompt, normalize_embeddings=self.normalize, show_progress_bar=False)
        return Vectors(np.asarray(dense, dtype=np.float32), None, self.fingerprint)

    def _tokenize(
        self, texts: list[str], task: Task
    ) -> tuple[dict[str, npt.NDArray[np.int32]], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Every input of the model as one flat array, the length of each text, and whether it was cut."""
        prompt = self.query_prompt if task == "query" else self.passage_prompt
        longest = self.max_query_length if task == "query" else self.max_passage_length
        try:
            encoded = self.model.tokenizer(
                [prompt + text for text in texts] if prompt else texts,
                truncation=True,
                max_length=longest,
                padding=False,
                return_attention_mask=False,
            )
        except (TypeError, UnicodeEncodeError):
            _refuse_half_characters(texts, task)
            raise
        lengths = np.fromiter(map(len, encoded["input_ids"]), dtype=np.int64, count=len(texts))
        flat = {
            name: np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int32, count=int(lengths.sum()))
            for name, rows in encoded.items()
        }
        cut = lengths == longest
        if encoded.encodings is not None:  # None: a tokenizer in Python, which does not say what is left
            cut[cut] = [bool(encoded.encodings[row].overflowing) for row in np.flatnonzero(cut)]
        return flat, lengths, cut

    def _features(
        self,
        tokens: dict[str, npt.NDArray[np.int32]],
        starts: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        task: Task,
    ) -> dict[str, Any]:
        """What the tokenizer would have given for this batch: (B, L) tensors on the model's device."""
        tokenizer = self.model.tokenizer
        left = tokenizer.padding_side == "left"
        fills = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        arrays = {
            name: pad(flat, starts, lengths, fills.get(name, 0), left=left) for name, flat in tokens.items()
        }
        ones = np.ones(1, dtype=np.int64)
        arrays["attention_mask"] = pad(
            np.broadcast_to(ones, int(lengths.max())), starts * 0, lengths, 0, left=left
        )
        features: dict[str, Any] = {
            name: torch.from_numpy(array).to(self.model.device, non_blocking=True)
            for name, array in arrays.items()
        }
        prompt = self.query_prompt if task == "query" else self.passage_prompt
        if prompt:
            ids = tokenizer(prompt)["input_ids"]
            features["prompt_length"] = len(ids) - (ids[-1] in tokenizer.all_special_ids)
        return features

    def _finish(self, out: dict[str, Tensor]) -> Tensor:
        vectors = out["sentence_embedding" if self._own is None else "dense_embedding"].float()
        vectors = vectors[:, : self.dimension]  # Matryoshka models may state a shorter vector
        return torch.nn.functional.normalize(vectors, dim=1) if self.normalize else vectors


def _refuse_half_characters(texts: Sequence[str], task: Task) -> None:
    for number, text in enumerate(texts, 1):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{task} {number} of {len(texts)} holds half a surrogate pair, which is no character; remove it."
            ) from None


def _sparse(lexical: Tensor, terms: int, task: Task) -> csr_array:
    """(B, V) term weights of one batch on the CPU: the `terms` kept of a document, all of a query."""
    size, vocabulary = lexical.shape
    if task == "query":
        return csr_array(lexical.cpu().numpy())
    best = lexical.abs().topk(min(terms, vocabulary), dim=1).indices.sort(dim=1).values  # the rest are zeros
    weights = lexical.gather(1, best).cpu().numpy().ravel()
    starts = np.arange(size + 1, dtype=np.int32) * best.shape[1]
    return csr_array((weights, best.cpu().numpy().ravel().astype(np.int32), starts), shape=(size, vocabulary))


def _in_order(parts: list[csr_array], batches: list[npt.NDArray[np.int64]]) -> csr_array:
    """The batches' rows in the order of the texts."""
    return vstack(parts, format="csr")[np.argsort(np.concatenate(batches))]

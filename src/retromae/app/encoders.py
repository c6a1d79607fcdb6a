"""What people say of an encoder and of a corpus, and how both are opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from retromae.core.config import setting
from retromae.core.errors import UserError
from retromae.retrieval.embed import Corpus
from retromae.retrieval.encoder import Encoder
from retromae.retrieval.reduction import check_reducible, reduce_dense
from retromae.text.layouts import corpus_reader
from retromae.text.sources import Document, Reader, ReadOptions, list_files, read_item
from retromae.text.tables import Fields

_RECORDS = (".jsonl", ".csv", ".tsv", ".parquet", ".gz")  # whose documents should have ids of their own
MACHINE = ("precision", "batch_tokens", "device")  # settings that say nothing of the model


@dataclass
class EncoderSettings:
    """How texts become vectors; what is left out is what the model states."""

    pooling: Literal["cls", "mean"] | None = setting(None, "pooling, for a model that states none or another")
    lexical_terms: int | None = setting(
        None, "open a pre-trained checkpoint with DupMAE's lexical half and keep so many terms (paper: 384)"
    )
    max_query_length: int | None = setting(None, "longest query in tokens")
    max_passage_length: int | None = setting(None, "longest passage in tokens, title included")
    query_prompt: str | None = setting(None, "text before every query")
    passage_prompt: str | None = setting(None, "text before every passage")
    normalize: bool | None = setting(
        None, "vectors of length 1 (default: where the model compares by cosine)"
    )
    precision: Literal["float32", "bfloat16"] = setting("float32", "numbers that the model computes in")
    batch_tokens: int | None = setting(None, "tokens of one batch, padding included")
    device: str | None = setting(None, "cpu, cuda, cuda:1 … (default: the GPU where there is one)")

    @property
    def fits(self) -> bool:
        """Is the model fitted to the corpus that it encodes, so that it has to be opened for each (`open_for`)?"""
        return False

    def open(self, model: str) -> Encoder:
        return Encoder.open(model, **asdict(self))

    def open_for(self, model: str, corpus: Corpus, vectors: Path, *, progress: bool = False) -> Encoder:
        """To encode one corpus into the folder `vectors`."""
        return self.open(model)

    def open_as_stated(self, model: str) -> Encoder:
        """With this machine's settings alone: for the models that one is compared with."""
        return Encoder.open(model, **{name: getattr(self, name) for name in MACHINE})


@dataclass
class CorpusEncoderSettings(EncoderSettings):
    """What can be said besides where there is a corpus to fit the encoder to."""

    dense_dimension: int | None = setting(
        None,
        "reduce the dense half beside a lexical one to so many dimensions, by PCA on a sample of the corpus "
        "(paper: 384)",
    )

    @property
    def fits(self) -> bool:
        return self.dense_dimension is not None

    def open(self, model: str) -> Encoder:
        """Before there is a corpus, so not reduced yet; whether it can be is seen."""
        encoder = self._opened(model)
        if self.dense_dimension is not None:
            check_reducible(encoder, self.dense_dimension)
        return encoder

    def open_for(self, model: str, corpus: Corpus, vectors: Path, *, progress: bool = False) -> Encoder:
        """A reduced model is kept in `vectors`, beside what it makes."""
        if self.dense_dimension is None:
            return self.open(model)
        whole = replace(self, precision="float32").open(model)
        reduced = reduce_dense(whole, corpus, vectors, self.dense_dimension, progress=progress)
        return self._opened(str(reduced))

    def _opened(self, model: str) -> Encoder:
        settings = asdict(self)
        del settings["dense_dimension"]
        return Encoder.open(model, **settings)


@dataclass
class FieldSettings:
    """Where records keep their parts."""

    id_field: str | None = setting(
        None, "field or column with the id (default: _id, id, docid, doc_id or pid)"
    )
    title_field: str | None = setting(None, "field or column with the title (default: title, if there)")
    text_field: str | None = setting(
        None, "field or column with the text (default: text, contents, content, body or passage)"
    )


def corpus_of(sources: Sequence[str], fields: FieldSettings) -> Callable[[], Iterator[Document]]:
    """The documents of some sources, read anew at every call.

    A retrieval collection (BEIR, MS MARCO, DPR) is read by its own rules, anything else as `prepare` reads it.
    Whatever cannot be read is refused: a passage that is left out without a word would be missing from every
    figure.
    """
    if not sources:
        raise UserError("there is nothing to encode: name a corpus with --corpus.")
    readers = [_reader(source, fields) for source in sources]
    return lambda: (document for reader in readers for document in reader())


def _reader(source: str, fields: FieldSettings) -> Callable[[], Iterator[Document]]:
    named = fields.id_field, fields.title_field, fields.text_field
    collection = corpus_reader(source) if Path(source).is_dir() and not any(named) else None
    if collection is not None:
        return collection
    read = ReadOptions(Fields(*named))
    list_files([source], read)  # refuses what is not there, before a model is opened
    return partial(_documents, source, read)


def _documents(source: str, options: ReadOptions) -> Iterator[Document]:
    """Empty documents and files that nobody expects to be read are passed over."""
    for item in Reader(list_files([source], options), options):
        document = read_item(item, options)
        if isinstance(document, Document):
            if (
                document.line
                and document.id.endswith(f":{document.line}")
                and document.source.endswith(_RECORDS)
            ):
                raise UserError(
                    f"{document.source}:{document.line}: the document has no id; give every document one, or "
                    "name its field with --id_field."
                )
            yield document
        elif not document.harmless and document.kind != "empty":
            raise UserError(str(document))

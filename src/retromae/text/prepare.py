"""Sources → a folder of token rows, on all cores, resumable, the same bytes whatever the number of workers.

    this process: read items ─ chunks ─┐                    ┌─ in order: drop duplicates, write shards
    workers:                           └─ open, split, tokenise ─┘

Memory is bounded by the chunks in flight and one shard; only the hashes of the passages grow with the corpus.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from retromae.core.errors import UserError
from retromae.core.files import replacing_folder
from retromae.text.digests import file_digest
from retromae.text.encode import EncodeSettings
from retromae.text.formats import Html
from retromae.text.passages import PassageRules
from retromae.text.problems import OnError
from retromae.text.progress import progress_bar
from retromae.text.seen import stable_key
from retromae.text.sentences import splitter_named
from retromae.text.shards import RowsInfo, RowsWriter, claim_folder
from retromae.text.sources import LINE_LIMIT, Document, Reader, ReadOptions, SourceFile, list_files, read_item
from retromae.text.tables import Fields
from retromae.text.vocabulary import TokenizerType, open_tokenizer, tokenizer_fingerprint, train_tokenizer
from retromae.text.workers import encode_in_order, worker_count


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class PrepareConfig:
    """From text to token rows. The same settings on the same sources always give the same bytes."""

    sources: list[str] = field(
        default_factory=list,
        metadata=_help("Files, folders, BEIR folders or hub:NAME[:CONFIG][@SPLIT], read in this order."),
    )
    out: str = field(
        default="rows", metadata=_help("Folder for the rows. An interrupted one is gone on with.")
    )
    tokenizer: str | None = field(default=None, metadata=_help("Tokenizer: a hub name or a folder."))
    train_tokenizer: int | None = field(
        default=None, metadata=_help("Train a tokenizer with this many pieces on the sources instead.")
    )
    tokenizer_type: TokenizerType = field(
        default="wordpiece", metadata=_help("Kind of the trained tokenizer: WordPiece or byte-level BPE.")
    )
    lowercase: bool = field(default=True, metadata=_help("The trained tokenizer makes all letters small."))
    sample_mb: int = field(
        default=100,
        metadata=_help("Train the tokenizer on about this many million characters, evenly drawn."),
    )
    max_tokens: int = field(
        default=148,
        metadata=_help(
            "Longest passage in tokens with its title, without special tokens (150 with [CLS] and [SEP])."
        ),
    )
    min_tokens: int = field(
        default=16,
        metadata=_help(
            "A document's last passage, if shorter, takes sentences over from the one before. 0: never. "
            "More than half of max_tokens counts as half."
        ),
    )
    split: bool = field(
        default=True,
        metadata=_help("Split documents into passages; otherwise each is one, cut off if too long."),
    )
    title: Literal["prepend", "omit"] = field(
        default="prepend",
        metadata=_help("Put the title's tokens before each passage (at most half of it), or not."),
    )
    dedupe: bool = field(
        default=True, metadata=_help("Leave out passages that were there before, word for word.")
    )
    id_field: str | None = field(
        default=None, metadata=_help("Field or column with the id (default: _id, id, docid, doc_id or pid).")
    )
    title_field: str | None = field(
        default=None, metadata=_help("Field or column with the title (default: title, if there).")
    )
    text_field: str | None = field(
        default=None,
        metadata=_help(
            "Field or column with the text (default: text, contents, content, body or passage). "
            "A number counts columns from 0 in tables without a header."
        ),
    )
    html: Html = field(
        default="builtin",
        metadata=_help("Read HTML with the standard library, or its main part with trafilatura."),
    )
    txt: Literal["file", "lines"] = field(
        default="file", metadata=_help("A .txt file is one document, or each of its lines is one.")
    )
    splitter: str = field(
        default="rules",
        metadata=_help('Sentence splitter: "rules", "lines" or an import path module:function.'),
    )
    on_error: OnError = field(
        default="skip", metadata=_help("What cannot be read is skipped and counted, or stops everything.")
    )
    line_limit: int = field(
        default=LINE_LIMIT,
        metadata=_help("Longest line, and largest text file, in bytes; longer ones are skipped."),
    )
    workers: int = field(
        default=0, metadata=_help("Worker processes; 0: one per core, 1: none but this process.")
    )
    shard_tokens: int = field(
        default=8_000_000,
        metadata=_help("Tokens in a shard; after an interruption at most one is done again."),
    )

    def check(self) -> None:
        if not self.sources:
            raise UserError("There is nothing to read: name at least one file, folder or hub data set.")
        if (self.tokenizer is None) == (self.train_tokenizer is None):
            raise UserError(
                "Name a tokenizer (--tokenizer) or train one (--train-tokenizer SIZE), one of the two."
            )
        lowest = {
            "max_tokens": 2,
            "min_tokens": 0,
            "line_limit": 1,
            "workers": 0,
            "shard_tokens": 1,
            "sample_mb": 1,
        }
        for name, least in lowest.items():
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        splitter_named(self.splitter)

    @property
    def read_options(self) -> ReadOptions:
        names = Fields(self.id_field, self.title_field, self.text_field)
        return ReadOptions(names, self.html, self.txt, self.line_limit)

    def deciding(self) -> dict[str, Any]:
        """The settings that decide the content of the rows."""
        without = {"out", "workers"}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in without}


def prepare(config: PrepareConfig, progress: bool = True) -> RowsInfo:
    """Write the rows that `config` describes and return what was counted.

    Called again after any interruption, it goes on behind the last finished shard, and the folder becomes the
    same to the byte. Called when all is done, it returns at once. Other settings or changed sources are refused.
    """
    config.check()
    out = Path(config.out)
    options = config.read_options
    files = list_files(config.sources, options)
    digests = [file_digest(file) for file in files if file.kind != "unreadable"]
    listed = "".join(json.dumps(digest) + "\n" for digest in digests)
    tokenizer = open_tokenizer(config.tokenizer) if config.tokenizer is not None else None
    settings = config.deciding()
    settings["tokenizer_fingerprint"] = tokenizer_fingerprint(tokenizer) if tokenizer is not None else None
    if (info := claim_folder(out, settings, listed)) is not None:
        return info
    total = sum(file.size for file in files)
    if tokenizer is None and not (out / "tokenizer").is_dir():
        with progress_bar("Reading for the tokenizer", total, progress) as bar:
            texts = []
            for text, position in _sample(files, options, total, config.sample_mb * 1_000_000):
                texts.append(text)
                bar.advance(1, position)
        tokenizer = _trained(config, texts)
    placed = _place(tokenizer, out)
    writer = RowsWriter(out, config.shard_tokens, config.dedupe, config.on_error)
    encode = EncodeSettings(
        str(out / "tokenizer" / "tokenizer.json"),
        PassageRules(config.max_tokens, min(config.min_tokens, config.max_tokens // 2), config.split),
        config.title == "prepend",
        config.splitter,
        options,
    )
    reader = Reader(files, options, writer.position)
    with progress_bar("Preparing", total, progress, reader.bytes_read) as bar:
        for encoded, chunk in encode_in_order(reader, encode, worker_count(config.workers, total)):
            writer.add(encoded, chunk.position)
            bar.advance(encoded.documents, chunk.bytes_read)
    sources = {"files": len(files), "bytes": total, "sha256": hashlib.sha256(listed.encode()).hexdigest()}
    return writer.finish(settings, sources, tokenizer_fingerprint(placed), len(placed))


def _place(tokenizer: Any | None, out: Path) -> Any:
    """Save the tokenizer beside the rows, once; give back the one that is there."""
    folder = out / "tokenizer"
    if tokenizer is not None and not folder.is_dir():
        with replacing_folder(out / "unfinished" / "tokenizer") as temporary:
            tokenizer.save_pretrained(str(temporary))
        (out / "unfinished" / "tokenizer").rename(folder)
    return open_tokenizer(str(folder))


def _trained(config: PrepareConfig, texts: list[str]) -> Any:
    size = config.train_tokenizer
    assert size is not None, "checked in PrepareConfig.check"
    if not texts:
        shutil.rmtree(config.out)
        raise UserError("The sources hold no text to train a tokenizer on.")
    return train_tokenizer(texts, size, config.tokenizer_type, config.lowercase)


def sample_texts(sources: Sequence[str], options: ReadOptions, budget: int) -> Iterator[str]:
    """About `budget` characters of text, drawn evenly: what a vocabulary is made of."""
    files = list_files(sources, options)
    return (text for text, _ in _sample(files, options, sum(file.size for file in files), budget))


def _sample(
    files: list[SourceFile], options: ReadOptions, total: int, budget: int
) -> Iterator[tuple[str, int]]:
    """(text, bytes read) of documents drawn evenly from all sources, about `budget` characters of text in all.

    Which documents are drawn is decided by a hash of their ids, so it is the same in every run. Where the total
    is not known (hub data sets) the first ones are taken.
    """
    share = min(1.0, budget / total) if total else 1.0
    reader = Reader(files, options)
    drawn = 0
    for item in reader:
        document = read_item(item, options)
        if not isinstance(document, Document) or stable_key(document.id) >= share * 2**64:
            continue
        yield f"{document.title}\n{document.text}" if document.title else document.text, reader.bytes_read
        drawn += len(document.text)
        if drawn >= budget:
            return

"""The verbs of the command line, one module each; a module is imported when its verb is called."""

from __future__ import annotations

import importlib
from typing import Any

import typer

# verb → (module, what it does)
VERBS = {
    "demo": ("demo", "Search your Python by meaning: everything once, on text that is on every machine."),
    "adapt": ("adapt", "A folder of text in, a proven better retriever out."),
    "fetch": ("fetch", "A retrieval collection of the hub to a folder."),
    "prepare": ("prepare", "Text to token rows: documents, passages, tokens, on disk."),
    "pretrain": ("pretrain", "Pre-train an encoder for retrieval, from a model or from scratch."),
    "import": ("import_", "Turn a foreign checkpoint into one that loads everywhere."),
    "finetune": ("finetune", "Fine-tune a retriever on queries and passages."),
    "mine": ("mine", "Find hard negatives for training queries."),
    "teach": ("teach", "Train a cross-encoder: a teacher, and a re-ranker."),
    "distill": ("distill", "Distil a cross-encoder into a retriever."),
    "pipeline": ("pipeline", "Several of these in a row, from one file, resumable at any stage."),
    "average": ("average", "Average the weights of checkpoints: a remedy for forgetting."),
    "encode": ("encode", "A corpus to vectors on disk."),
    "index": ("index", "Vectors to an index: flat, HNSW, IVF-PQ, int8 or binary."),
    "search": ("search", "Find passages by text, and say why they were found."),
    "export": ("export", "Hand an index over to a vector database."),
    "evaluate": ("evaluate", "Measure retrievers against each other: figures, intervals, tests."),
    "compare": ("compare", "Pre-training objectives against each other, under one budget."),
    "serve": ("serve", "A workbench and an API on this machine: search, compare, judge, watch."),
    "doctor": ("doctor", "Before anything long: what will happen with this text on this machine."),
    "report": ("report", "Write the report of an adapt run again."),
}


def command_of(name: str) -> Any:
    """The click command of a verb."""
    verb = typer.Typer(add_completion=False)
    module = importlib.import_module(f"{__name__}.{VERBS[name][0]}")
    verb.command(name)(module.command)
    return typer.main.get_command(verb)


def listed(name: str) -> Any:
    """A verb for the list in --help alone: nothing is imported."""
    verb = typer.Typer(add_completion=False)
    verb.command(name, help=VERBS[name][1])(lambda: None)
    return typer.main.get_command(verb)

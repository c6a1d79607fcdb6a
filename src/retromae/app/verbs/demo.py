"""retromae demo"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retromae.app.adapt.settings import AdaptConfig
from retromae.app.flags import console
from retromae.app.verbs.adapt import run_adapt

QUESTIONS = [
    "stop a thread from blocking exit",
    "read a zip without unpacking",
    "how far apart are two points on a sphere",
    "undo the last escape of html",
    "find where two sorted lists overlap",
]


def command(
    output_dir: Annotated[
        Path, typer.Option("--output_dir", help="run folder; the same command again goes on")
    ] = Path("runs/demo"),
    minutes: Annotated[float, typer.Option("--minutes", help="time for everything")] = 6.0,
    model_name_or_path: Annotated[
        str | None, typer.Option("--model_name_or_path", help="another base than MiniLM")
    ] = None,
    from_scratch: Annotated[bool, typer.Option("--from_scratch", help="train a small model instead")] = False,
    documents: Annotated[
        int, typer.Option("--documents", help="documentation strings to take, at most", min=200)
    ] = 2800,
    seed: Annotated[int, typer.Option("--seed", help="what is held out, batches, masks")] = 42,
) -> None:
    """Search your Python by meaning: adapt a model to the documentation of what is installed here, and prove it.

    A docstring's first paragraph, without the object's own name, asks for the rest of it. Modules are held out whole.
    """
    from retromae.app.demo_corpus import write_docstrings

    corpus = output_dir.with_name(output_dir.name + "-text") / "docstrings.jsonl"
    if not corpus.is_file():
        console.print("[bold]documentation strings of the installed Python[/bold]")
        number = write_docstrings(corpus, documents)
        console.print(f"  {number:,} of them: {corpus}", highlight=False, soft_wrap=True)
    run_adapt(
        AdaptConfig(
            sources=[str(corpus)],
            output_dir=str(output_dir),
            model_name_or_path=model_name_or_path,
            from_scratch=from_scratch,
            minutes=minutes,
            seed=seed,
            passage_max_len=96,
            query_max_len=32,
            eval_queries=600,
            questions_from=["title"],
            judge_by=["title"],
            objective="auto" if from_scratch else "dupmae",  # to show what it gives here, and what not
        )
    )
    _answer(output_dir)


def _answer(run: Path) -> None:
    """Plain questions, answered by what the run returned."""
    from retromae.retrieval.systems import open_systems

    systems = open_systems(run)
    console.print("\n[bold]Questions, and what it finds[/bold]")
    for question in QUESTIONS:
        hits = systems.search(question, 3)
        console.print(f"\n“{question}”", highlight=False, markup=False)
        for hit in hits:
            line = f"  {hit.passage.id}  {hit.passage.title}"
            console.print(line[:110], highlight=False, markup=False, soft_wrap=True)

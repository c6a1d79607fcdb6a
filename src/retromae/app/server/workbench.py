"""The page, and what only it asks for: the systems, judgements, and curves of the runs that are watched.

The files of the page are read once, at the start; no part of a request names a file.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from retromae import __version__
from retromae.app.server.judgements import Judgements
from retromae.app.server.problems import Refused
from retromae.app.server.watch import Watched
from retromae.retrieval.systems import Systems

_PAGES = {"/": "index.html", "/static/style.css": "style.css", "/static/app.js": "app.js"}
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}


class Judgement(BaseModel):
    model_config = ConfigDict(extra="forbid")

    query: str = Field(max_length=10_000)
    passage: str = Field(max_length=10_000)
    """Its id."""
    grade: Annotated[int, Field(strict=True, ge=0, le=3)] | None
    """None takes a grade back."""
    system: str | None = Field(None, max_length=100)
    rank: int | None = Field(None, ge=1)


@dataclass(frozen=True)
class Bench:
    """Systems, and the grades of what they find."""

    systems: Systems
    model: str
    """Where the encoder lies."""
    judgements: Judgements

    def judged(self, query: Annotated[str | None, Query(max_length=10_000)] = None) -> JSONResponse:
        """The grades of one query, or what there is altogether."""
        if query is not None:
            return JSONResponse({"grades": self.judgements.grades(query)})
        summary = self.judgements.summary()
        words = [
            "retromae",
            "finetune",
            self.model,
            "--pairs",
            summary["folder"],
            "--output_dir",
            "runs/judged",
        ]
        return JSONResponse({**summary, "train": shlex.join(words)})

    def judge(self, judgement: Judgement) -> JSONResponse:
        if not judgement.query.strip():
            raise Refused(400, "the query is empty.", param="query")
        passage = self.systems.passage(judgement.passage)
        if passage is None:
            raise Refused(404, f"there is no passage {judgement.passage!r}.", param="passage")
        try:
            count = self.judgements.judge(
                judgement.query, passage, judgement.grade, system=judgement.system, rank=judgement.rank
            )
        except OSError as error:
            raise Refused(
                507, f"the judgement cannot be saved in {self.judgements.folder}: {error.strerror}."
            ) from None
        return JSONResponse({"judgements": count})

    def export(self) -> Response:
        if not self.judgements.summary()["judgements"]:
            raise Refused(404, "nothing has been judged yet.")
        return Response(
            self.judgements.export(),
            media_type="application/zip",
            headers={"content-disposition": 'attachment; filename="judgements.zip"'},
        )


@dataclass(frozen=True)
class Workbench:
    """The page, and the runs that are watched. What there is to search and to judge is `bench`'s."""

    name: str
    watched: Watched
    bench: Bench | None = None

    def router(self) -> APIRouter:
        router = APIRouter()
        for address, file in _PAGES.items():
            router.get(address)(_page(file))
        router.get("/about")(self.about)
        router.get("/runs")(self.runs)
        router.get("/runs/{number}/metrics")(self.metrics)
        if self.bench is not None:
            router.get("/judgements")(self.bench.judged)
            router.post("/judgements")(self.bench.judge)
            router.get("/judgements/export")(self.bench.export)
        return router

    def about(self) -> JSONResponse:
        facts: dict[str, Any] = {
            "name": self.name,
            "version": __version__,
            "passages": 0,
            "systems": [],
            "default": None,
        }
        if self.bench is not None:
            systems = self.bench.systems
            facts["passages"] = len(systems.indexes[0])
            facts["systems"] = [{"name": name, "label": system.label} for name, system in systems.items()]
            facts["default"] = systems.default
        return JSONResponse(facts)

    def runs(self) -> JSONResponse:
        curves = self.watched.curves()
        return JSONResponse({"runs": [{"number": n, "name": curve.name} for n, curve in enumerate(curves)]})

    def metrics(
        self,
        number: int,
        after: Annotated[int, Query(ge=0)] = 0,
        version: Annotated[int, Query(ge=0)] = 0,
    ) -> JSONResponse:
        curves = self.watched.curves()
        if not 0 <= number < len(curves):
            raise Refused(404, f"there is no run {number}; {len(curves)} are watched.")
        return JSONResponse(curves[number].after(after, version))


def _page(file: str) -> Any:
    content = files("retromae.app.server").joinpath("static", file).read_bytes()
    kind = f"{_TYPES[file.rpartition('.')[2]]}; charset=utf-8"

    async def page() -> Response:
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    return page

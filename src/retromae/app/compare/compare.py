"""A comparison from end to end: what all arms stand on, the arms, the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console

from retromae.app.compare import ground, report
from retromae.app.compare.jobs import jobs_of, part_of
from retromae.app.compare.results import collect
from retromae.app.compare.running import Runner
from retromae.app.compare.settings import Comparison
from retromae.core import distributed
from retromae.core.errors import UserError
from retromae.training.session import Interrupted


@dataclass(frozen=True)
class Share:
    """What this call does of a comparison."""

    part: str | None = None  # 1/2: the first half
    only: Sequence[str] = ()  # arms
    restart: bool = False  # throw away what was made with other settings
    report_only: bool = False  # train and measure nothing


def compare(
    comparison: Comparison,
    share: Share,
    say: Callable[[str], None],
    console: Console | None = None,
    reports: Sequence[str] = (),
) -> int:
    """Do what is left and write the report; the signal that ended it, otherwise 0."""
    for path in reports:
        report.check_ending(path)
    jobs = part_of(jobs_of(comparison), share.part, share.only)
    _check_folder(comparison)
    if share.report_only:
        _check_report(comparison, share)
    distributed.start()
    made = None
    try:
        if not share.report_only:
            made = ground.prepare(comparison, say, console, restart=share.restart)
            Runner(comparison, made, say, console, restart=share.restart).run(jobs)
    except Interrupted as interruption:
        say("Stopped; go on with the same command.")
        return interruption.signal

    def write() -> None:
        findings = collect(comparison, made)
        report.write_all(findings)
        for path in reports:
            report.write(findings, path)
        for line in report.summary(findings):
            say(line)
        say(f"Written: {comparison.folder / 'report.md'}")

    distributed.first_decides(write)
    return 0


def _check_report(comparison: Comparison, share: Share) -> None:
    work = {"--only": share.only, "--part": share.part, "--restart": share.restart}
    for flag in (flag for flag, given in work.items() if given):
        raise UserError(
            f"--report_only does no work, so {flag} means nothing beside it; leave one of them out."
        )
    if not (comparison.folder / ground.MARK).is_file():
        raise UserError(
            f"'{comparison.folder}' holds no comparison to report on; run it without --report_only."
        )
    ground.check(comparison)


def _check_folder(comparison: Comparison) -> None:
    folder = comparison.folder
    if folder.is_dir() and not (folder / ground.MARK).is_file():
        strange = next((path.name for path in folder.iterdir()), None)
        if strange is not None:
            raise UserError(
                f"'{folder}' is not empty ({strange}) and holds no comparison; choose another output_dir."
            )

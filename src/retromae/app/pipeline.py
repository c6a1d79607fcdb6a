"""Several verbs in a row, from one file: what is finished is skipped, what was interrupted goes on.

    output_dir: runs/supervised
    pairs: data/mine
    stages:
      - name: dpr
        verb: finetune
        model: runs/a               # a verb's own argument, by its name
        pairs: ${pairs}             # a value from above
      - name: negatives
        verb: mine
        model: ${dpr}               # the folder of an earlier stage
        pairs: ${pairs}

Every stage has a folder of its name in `output_dir`. `pipeline.json` there says which are finished, and with which
settings: a stage whose settings have changed is not taken for finished, and neither is one that builds on it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import typer

from retromae.app.ledger import Ledger, State
from retromae.app.verbs import VERBS, command_of
from retromae.core import distributed
from retromae.core.config import fingerprint, unknown_key
from retromae.core.errors import UserError

STATE = "pipeline.json"
REFERENCE = re.compile(r"\$\{(\w+)\}")
_OWN = ("name", "verb")
_OUTPUTS = ("output_dir", "out")  # what verbs call their folder
_USAGE: Any = typer.BadParameter.__bases__[0]  # a bad command line, of click or of typer's own copy of it
_SHARED = ("pretrain", "finetune", "mine", "teach", "distill", "encode")  # what many processes do together


@dataclass(frozen=True)
class Stage:
    """One verb with its settings; `inputs` cover those of the stages that it builds on, too."""

    name: str
    verb: str
    settings: dict[str, Any]
    folder: Path
    inputs: dict[str, Any]


class Pipeline:
    """The stages of a file, in order."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.where = where
        given = {name: value for name, value in values.items() if name != "stages"}

        def other(wanted: str) -> Any:
            if wanted not in given:
                raise unknown_key(wanted, given, where)
            return given[wanted]

        top = {name: resolve(value, other) for name, value in given.items()}
        if not top.get("output_dir"):
            raise UserError(f"{where}: say output_dir, the folder that the stages' folders are made in.")
        self.folder = Path(str(top["output_dir"]))
        stages = values.get("stages")
        if not isinstance(stages, list) or not stages or not all(isinstance(entry, dict) for entry in stages):
            raise UserError(f"{where}: 'stages' must be a list, each with a name, a verb and its settings.")
        self.stages: list[Stage] = []
        for entry in stages:
            self.stages.append(self._stage(entry, top))

    def _stage(self, entry: Mapping[str, Any], top: Mapping[str, Any]) -> Stage:
        name, verb = str(entry.get("name", "")), str(entry.get("verb", ""))
        if not re.fullmatch(r"[A-Za-z]\w*", name) or name in top or name in {s.name for s in self.stages}:
            raise UserError(
                f"{self.where}: a stage is called {name!r}; give each a name of letters, digits and _ of its own."
            )
        if verb not in VERBS or verb == "pipeline":
            raise unknown_key(verb, set(VERBS) - {"pipeline"}, f"{self.where}, stage {name}")
        folders = {stage.name: stage for stage in self.stages}
        used: list[str] = []

        def value_of(wanted: str) -> Any:
            if wanted in folders:
                used.append(fingerprint(folders[wanted].inputs))
                return str(folders[wanted].folder)
            if wanted in top:
                return top[wanted]
            raise unknown_key(wanted, {*folders, *top}, f"{self.where}, stage {name}")

        settings = {
            str(key).replace("-", "_"): resolve(value, value_of)
            for key, value in entry.items()
            if key not in _OWN
        }
        inputs = {"verb": verb, **settings, "what it builds on": sorted(used)}
        return Stage(name, verb, settings, self.folder / name, inputs)

    # -- running ------------------------------------------------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        """What is finished, and what it was made with."""
        return Ledger(self.folder / STATE)

    def states(self) -> list[tuple[Stage, State]]:
        """Every stage and what is known of it."""

        def state(stage: Stage) -> State:
            if not stage.folder.exists():
                return "to do"
            found = self.ledger.state(stage.name, stage.inputs)
            return "interrupted" if found == "to do" else found

        return [(stage, state(stage)) for stage in self.stages]

    def restart(self, name: str) -> None:
        """Forget a stage and those after it."""
        names = [stage.name for stage in self.stages]
        if name not in names:
            raise unknown_key(name, names, "--restart")
        forgotten = self.stages[names.index(name) :]
        # First: what is half removed must not be taken for finished.
        self.ledger.forget(stage.name for stage in forgotten)
        for stage in forgotten:
            shutil.rmtree(stage.folder, ignore_errors=True)
            shutil.rmtree(stage.folder.with_name(f".{stage.name}.work"), ignore_errors=True)  # of mining

    def run(self, say: Any) -> int:
        """Run what is not finished; the exit code of a stage that was interrupted, otherwise 0."""
        for stage, state in self.states():
            if state == "changed":
                changes = self.ledger.changes(stage.name, stage.inputs)
                raise UserError(
                    f"stage {stage.name} in '{self.folder}' was made with other settings ({changes}); add --restart "
                    f"{stage.name} to make it and what follows again, or choose another output_dir."
                )
            if state != "finished":
                self._parsed(stage)  # refuses now what would be refused after hours
        for stage, state in self.states():
            if state == "finished":
                say(f"{stage.name}: finished before")
                continue
            say(f"{stage.name}: retromae {stage.verb}" + (", going on" if state == "interrupted" else ""))
            code = self._run(stage)
            if code:
                return code
            done = partial(self.ledger.finish, stage.name, stage.inputs, {})
            distributed.first_decides(done)
        return 0

    def _parsed(self, stage: Stage) -> tuple[Any, list[str]]:
        """The command of a stage and its command line, which it has accepted."""
        command = command_of(stage.verb)
        arguments = arguments_of(command, stage, self.where)
        try:
            command.make_context(f"retromae {stage.verb}", list(arguments))
        except _USAGE as error:
            raise UserError(f"{self.where}, stage {stage.name}: {error.format_message()}") from None
        return command, arguments

    def _run(self, stage: Stage) -> int:
        if stage.verb not in _SHARED and distributed.world_size() > 1:
            raise UserError(
                f"stage {stage.name}: {stage.verb} runs as one process; run the same command without torchrun, and it "
                "goes on from here.",
                told=not distributed.writes(),
            )
        if stage.verb == "mine":  # it makes its folder whole or not at all, so this one is of no use
            distributed.first_decides(lambda: shutil.rmtree(stage.folder, ignore_errors=True))
        command, arguments = self._parsed(stage)
        code = command.main(arguments, prog_name=f"retromae {stage.verb}", standalone_mode=False)
        return int(code or 0)


def resolve(value: Any, value_of: Callable[[str], Any]) -> Any:
    """`${name}` replaced by what it stands for: a value of any kind where it stands alone, text within text."""
    if isinstance(value, list):
        return [resolve(item, value_of) for item in value]
    if not isinstance(value, str):
        return value
    alone = REFERENCE.fullmatch(value)
    return value_of(alone[1]) if alone else REFERENCE.sub(lambda match: str(value_of(match[1])), value)


def arguments_of(command: Any, stage: Stage, where: str) -> list[str]:
    """The stage as the command line that it stands for."""
    parameters = {parameter.name: parameter for parameter in command.params}
    settings = dict(stage.settings)
    output = next((name for name in _OUTPUTS if name in parameters), None)
    if output is None:
        raise UserError(f"{where}: {stage.verb} leaves nothing behind, so it cannot be a stage.")
    settings[output] = str(stage.folder)
    if "resume" in parameters:
        settings["resume"] = (stage.folder / "config.yaml").is_file()
    positional: list[str] = []
    flags: list[str] = []
    for name, value in settings.items():
        if name not in parameters:
            raise unknown_key(name, set(parameters) - {output, "resume"}, f"{where}, stage {stage.name}")
        if value is None:
            continue
        values: Sequence[Any] = value if isinstance(value, list) else [value]
        if parameters[name].param_type_name == "argument":
            positional += [str(item) for item in values]
        elif isinstance(value, bool):
            option = parameters[name]
            spelled = option.opts if value else option.secondary_opts
            flags += spelled[:1]
        else:
            for item in values:
                flags += [parameters[name].opts[0], str(item)]
    return [*flags, "--", *positional]

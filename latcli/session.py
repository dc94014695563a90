"""What one invocation runs in: the options that every command has, its streams, its processes."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from latcli.errors import ExitCode, StoreError, UsageError
from latcli.options import Computing, Recording, SeveralOptions, command_words
from latcli.reporting.text import duration, printable, rate
from latcli.results import to_json

if TYPE_CHECKING:
    from latcli.engine.distributed import Ranks

#: How often progress is noted off a terminal.
_NOTE_SECONDS = 60.0


class Tick(Protocol):
    """Tells a progress bar that so many more steps are done."""

    def __call__(self, steps: int = 1, /, *, text: str | None = None) -> None:
        """Move the bar on; `text` replaces what stands before it."""
        ...


@dataclass(kw_only=True)
class Session(Recording):
    """One invocation: results go to stdout, progress and messages to stderr.

    `parent` is the run of which this one is a part, `argv` the command that repeats it.
    """

    parent: str | None = None
    argv: Sequence[str] = field(default_factory=lambda: sys.argv)
    stdout: TextIO = field(default_factory=lambda: sys.stdout)
    stderr: TextIO = field(default_factory=lambda: sys.stderr)
    _live: Any = field(default=None, init=False, repr=False)  # the console of the bar that is shown

    def of_run(self) -> dict[str, Any]:
        """What `Store.start_run` needs to know of this invocation."""
        return {"argv": list(self.argv), "parent": self.parent, "name": self.name, "tags": self.tag}

    def command_of(self, command: str, options: Any) -> list[str]:
        """What a user types to run one command with these options where this session runs."""
        where = self.words("store", "data", "device", "precision", "seed", "offline")
        return ["latcli", command, *command_words(options), *where]

    def words(self, *names: str) -> list[str]:
        """What a user types for those of these shared options that are not as they are by default."""
        return command_words(Computing(**{name: getattr(self, name) for name in names}))

    @property
    def stderr_is_terminal(self) -> bool:
        """Whether a person may be watching stderr."""
        return self.stderr.isatty()

    @property
    def shows_progress(self) -> bool:
        """Whether a bar would be seen, and is wanted."""
        return self.stderr_is_terminal and not self.quiet

    def note(self, text: str) -> None:
        """Say one line on stderr, unless quiet; above the progress bar where there is one."""
        if self.quiet:
            return
        if self._live is not None:
            self._live.print(printable(text), markup=False, highlight=False, soft_wrap=True)
        else:
            print(printable(text), file=self.stderr, flush=True)

    def show(self, result: Any, command: str) -> int:
        """Write a command's result on stdout, as its JSON document under `--json`, else drawn; returns its exit code.

        A text is printed as it is, None prints nothing.
        """
        document = to_json(result)
        if self.json:
            print(json.dumps(document, indent=2, allow_nan=False), file=self.stdout)
        else:
            from latcli.reporting.terminal import console_for, shown

            drawn = shown(command, document)
            if isinstance(drawn, str):
                print(drawn, file=self.stdout)
            elif drawn is not None:
                console_for(self.stdout).print(drawn)
        code = getattr(result, "exit_code", ExitCode.OK)
        return int(code) if isinstance(code, ExitCode) else 0  # that of a stored run, a plain number, is only shown

    @contextmanager
    def progress(self, description: str, total: int | None, *, noted: bool = False) -> Iterator[Tick]:
        """Show a bar with rate and time left on stderr while the block runs; silent when quiet.

        `total` is the number of steps, None where it is not known beforehand. Off a terminal there is no bar, and where
        it is `noted` a line a minute instead.
        """
        if not self.shows_progress or self._live is not None:
            yield self._noting(description, total) if noted else lambda steps=1, /, *, text=None: None
            return
        from rich import progress as bars
        from rich.text import Text

        from latcli.reporting.terminal import console_for

        class Rate(bars.ProgressColumn):
            def render(self, task: Any) -> Text:
                return Text(rate(task.finished_speed or task.speed or 0.0))

        console, text = console_for(self.stderr), bars.TextColumn
        columns = (text("{task.description}", markup=False), bars.BarColumn(bar_width=None), bars.MofNCompleteColumn())
        left = (Rate(), text("ETA"), bars.TimeRemainingColumn())
        with bars.Progress(*columns, *left, console=console, transient=True, expand=True) as bar:
            task = bar.add_task(printable(description), total=total)
            self._live = console

            def tick(steps: int = 1, /, *, text: str | None = None) -> None:
                bar.update(task, advance=steps, description=None if text is None else printable(text))

            try:
                yield tick
            finally:
                self._live = None

    def _noting(self, description: str, total: int | None) -> Tick:
        begun = noted_at = time.monotonic()
        done = 0

        def tick(steps: int = 1, /, *, text: str | None = None) -> None:
            nonlocal noted_at, done
            done, now = done + steps, time.monotonic()
            if done and total and now - noted_at >= _NOTE_SECONDS:
                noted_at = now
                left = duration((total - done) * (now - begun) / done)
                self.note(f"{description}: {done:,} of {total:,}, {rate(done / (now - begun))}, about {left} left")

        return tick


# the processes of a command that has `--devices` and `--nodes`


def connected(options: SeveralOptions, session: Session) -> tuple[Ranks, Session]:
    """All ranks, and a session for this one, with its device. A rank other than 0 says nothing unless it is debugged.

    Raises UsageError for a world that this machine cannot be part of.
    """
    from latcli.engine.devices import open_device  # what shows runs does without torch
    from latcli.engine.distributed import Ranks, world_of

    devices, nodes = world_of(options.devices, options.nodes)
    if devices * nodes == 1:
        return Ranks(), session
    if session.device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {session.device} cannot be used by several processes", "give --device cpu or cuda")
    kind = open_device(session.device).type
    ranks = Ranks(devices, nodes, "cuda" if kind == "cuda" else "cpu")
    session = replace(session, device=str(ranks.device))
    if not ranks.rank:
        return ranks, session
    if not session.debug:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    return ranks, replace(session, quiet=not session.debug, json=False)


def common_folder(ranks: Ranks, folder: Path | None, form: Callable[[], str] = str) -> Path:
    """The folder of rank 0's run, into which all ranks write; before, their forms of gradients are compared.

    Raises StoreError where a rank cannot see it, and UsageError where the forms differ.
    """

    from latcli.store.files import RUN_JSON

    def look() -> str:
        if not (common / RUN_JSON).is_file():
            raise StoreError(
                f"the run's folder {common} is not there",
                "keep the runs in a folder that all machines share: --store DIR",
            )
        return form()

    first = ranks.broadcast(folder)
    assert first is not None
    common = first
    ranks.agreed(look, str, "the forms of gradients", "give --precision fp32")
    return common

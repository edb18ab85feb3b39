"""The record of a session on the disk: its plan, what was found on the way, and its result.

<store>/distillations/<session>/session.json  best.yaml  report.html  export/

All choices depend on what stands here, so a session that was stopped or killed goes on to the same end.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from raykd.distributed.world import World
from raykd.errors import CorruptError
from raykd.files import damaged, locked, make_folder, parse_content, read_json, sweep, write_json, writing
from raykd.recipe.experiment import Experiment, experiment_from_dict
from raykd.results import DistillResult, RoundResult
from raykd.store.inventory import DISTILLATIONS
from raykd.store.mirror import SESSION
from raykd.store.run_directory import PAGE
from raykd.store.workspace import Workspace

_RECIPE, _EXPORT = "best.yaml", "export"
_ADVICE = "move its folder away to begin the session again; its runs stay in the store"


@dataclass(frozen=True)
class Member:
    """A candidate as it is planned: its run, the steps at which the first two kinds of rounds leave it.

    Attributes:
        what: what its student learns from, or in what it differs from ``base``.
        base: the candidate whose setting it varies; None of a candidate of its own.
        seconds_per_step: as measured.
    """

    name: str
    what: str
    experiment: Experiment
    control: bool
    first: int
    finalist: int
    seconds_per_step: float
    first_seconds: float
    finalist_seconds: float
    seconds: float
    base: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {each.name: getattr(self, each.name) for each in fields(self)} | {
            "experiment": self.experiment.to_dict()
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Rebuild a member from ``to_dict``.

        Raises:
            KeyError, TypeError, ValueError: for anything else.
        """
        own = {each.name: found[each.name] for each in fields(cls)}
        own |= {key: int(own[key]) for key in ("first", "finalist")}
        own |= {key: float(own[key]) for key in ("seconds_per_step", "first_seconds", "finalist_seconds", "seconds")}
        return cls(**{**own, "experiment": experiment_from_dict(found["experiment"])})


@dataclass(frozen=True)
class SessionPlan:
    """What a session does: fixed before its first step.

    Attributes:
        members: candidates, and the variants of each that may be tried.
        settings: how many variants of the leader are tried.
        finalists: how many candidates go on behind the first rounds.
        about: of teacher and student, for a reader: texts and numbers.
        words: what will be tried and why.
        notes: what the user should know.
        seconds: as expected, of all.
    """

    minutes: float
    members: list[Member]
    settings: int
    finalists: int
    about: Mapping[str, Any]
    words: str
    notes: list[str]
    seconds: float

    @property
    def candidates(self) -> list[Member]:
        """Return the members that are no variants."""
        return [one for one in self.members if one.base is None]

    def variants(self, base: str) -> list[Member]:
        """Return the variants of a candidate that may be tried."""
        return [one for one in self.members if one.base == base][: self.settings]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        return plain | {"members": [one.to_dict() for one in self.members]}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Rebuild a plan from ``to_dict``.

        Raises:
            KeyError, TypeError, ValueError: for anything else.
        """
        own = {each.name: found[each.name] for each in fields(cls)}
        return cls(**{**own, "members": [Member.from_dict(one) for one in found["members"]]})


@dataclass(frozen=True)
class Failure:
    """Why a member is out, and how many rounds were judged before that: no earlier choice knows of it."""

    reason: str
    round: int


@dataclass(frozen=True)
class Record:
    """All that a session has noted.

    Attributes:
        plan: what it does.
        failed: of members that are out, by name.
        rounds: those that are judged.
        seconds: that it took until now, over all of its commands.
        planning: seconds of these before the plan.
        result: what it came to; None before.
    """

    plan: SessionPlan
    failed: Mapping[str, Failure] = field(default_factory=dict)
    rounds: tuple[RoundResult, ...] = ()
    seconds: float = 0.0
    planning: float = 0.0
    result: DistillResult | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        rounds = [one.to_dict() for one in self.rounds]
        result = None if self.result is None else self.result.to_dict()
        failed = {name: asdict(one) for name, one in self.failed.items()}
        return plain | {"plan": self.plan.to_dict(), "failed": failed, "rounds": rounds, "result": result}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Rebuild a record from ``to_dict``.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: for anything else.
        """
        return cls(
            plan=SessionPlan.from_dict(found["plan"]),
            failed={str(name): Failure(str(one["reason"]), int(one["round"])) for name, one in found["failed"].items()},
            rounds=tuple(RoundResult.from_dict(one) for one in found["rounds"]),
            seconds=float(found["seconds"]),
            planning=float(found["planning"]),
            result=None if found["result"] is None else DistillResult.from_dict(found["result"]),
        )

    def with_failure(self, name: str, why: str) -> "Record":
        """Return the record with a member that fails now."""
        return replace(self, failed={**self.failed, name: Failure(why, len(self.rounds))})


class SessionFolder:
    """The folder of a session in a store."""

    def __init__(self, workspace: Workspace, session: str) -> None:
        """Open nothing yet."""
        self._workspace = workspace
        self.name = f"{DISTILLATIONS}/{session}"
        self.path = workspace.store / DISTILLATIONS / session

    @property
    def recipe(self) -> Path:
        """Return the file by which `raykd train` makes the best run again."""
        return self.path / _RECIPE

    @property
    def page(self) -> Path:
        """Return the file that shows the session to a reader."""
        return self.path / PAGE

    @property
    def export(self) -> Path:
        """Return the folder of the exported student."""
        return self.path / _EXPORT

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the session for this process.

        Raises:
            InProgress: if another one is at it.
            SetupError: if the disk does not take it.
        """
        with writing(f"the session into {self.path}"):
            make_folder(self.path)
        busy = f"session {self.path.name} is in progress in another process: wait for it, or use another store by --out"
        with locked(self.path / ".lock", wait=False, busy=busy):
            sweep(self.path)
            yield

    def read(self) -> Record | None:
        """Return what the session has noted; None before its plan.

        Raises:
            CorruptError: if that is damaged.
        """
        self._workspace.pull([self.name], World.alone(), checkpoints="none")
        file = self.path / SESSION
        try:
            found = read_json(file, _ADVICE)
        except FileNotFoundError:
            return None
        record: Record = parse_content(file, _ADVICE, lambda: _parse(file, found))
        return record

    def write(self, record: Record) -> None:
        """Note all that is known.

        Raises:
            SetupError: if the disk or the store does not take it.
        """
        with writing(f"the session into {self.path}"):
            write_json(self.path / SESSION, record.to_dict())
        self.push()

    def push(self) -> None:
        """Send what is new to a store elsewhere."""
        self._workspace.push(self.name, World.alone())


def _parse(file: Path, found: Mapping[str, Any]) -> Record:
    try:
        return Record.from_dict(found)
    except ValueError as error:
        if isinstance(error, CorruptError):
            raise
        raise damaged(file, str(error), _ADVICE) from None

"""Ways to damage a file of a store, and what the command line makes of each.

    python -m tests.store.damage [WORDS]    every case whose name has these words: a table, and what is wrong

A damage is met rightly if the command ends with 0 and the result of the undamaged store, or with 4 and one line that
names the file.
"""

import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from raykd.files import sha256_of, write_json
from tests.store.small_store import PLACES, VERBS, Outcome, build, found, run_in

RUN = (
    "experiment.json", "recipe.yaml", "environment.json", "data.json", "status.json", "metrics.jsonl", "checkpoints",
    "tensorboard", "tensorboard/events*",
)  # fmt: skip
STUDENTS = ("last.safetensors", "blind.safetensors", "best.safetensors", "state.pt", "manifest.json")
FILES: dict[str, tuple[str, ...]] = {
    "finished": (
        *RUN, "samples", "samples/step_0000006.png", "student.safetensors", "breakdown.json", "image_statistics.json",
        *(f"checkpoints/step_0000006/{name}" for name in STUDENTS), "checkpoints/step_0000006",
    ),
    "stopped": (
        *RUN, "samples", "samples/step_0000004.png",
        *(f"checkpoints/step_0000004/{name}" for name in STUDENTS), "checkpoints/step_0000004",
    ),
    "teacher": (*RUN, "student.safetensors", "statistics.safetensors"),
    "bank": (*RUN, "bank", "bank/manifest.json", "bank/class_00003.safetensors"),
    "half a bank": (
        *RUN, "bank", "bank/class_00003.safetensors", "checkpoints/step_0000006/state.pt",
        "checkpoints/step_0000006/shard_00000.safetensors", "checkpoints/step_0000006/manifest.json",
    ),
    "pool": (*RUN, "pool", "pool/manifest.json", "pool/images-0000006-00000.parquet"),
    "half a pool": ("pool", "pool/images-0000002-00000.parquet", "pool/images-0000004-00000.parquet"),
    "kept": ("environment.json", "status.json"),
    "weights": ("*.safetensors",),
    "set": ("manifest.json", "train-00000-of-00001.parquet"),
    "logits": ("*.parquet", "*.lock"),
    "search": ("study.db", "search.json", "trials.json", "best.yaml", ".tuners", "figures", "figures/history.html"),
}  # fmt: skip
"""What there is to damage. Of checkpoints the newest, whose files stand for those of the one before it."""

OF_ALL = ("experiment.json", "status.json", "student.safetensors", "bank/manifest.json", "pool/manifest.json")
"""What every command that reads a place is tried on; of the other files each kind of damage has one of them in turn."""

READERS: dict[str, tuple[str, ...]] = {
    "finished": ("evaluate the finished", "inspect the finished", "draw from the finished", "read the finished"),
    "stopped": ("evaluate the stopped", "resume"),
    "teacher": ("evaluate the finished", "distil", "make a bank"),
    "bank": ("draw from the bank", "distil from the bank", "read the bank"),
    "half a bank": ("resume the bank",),
    "pool": ("draw from the pool", "distil from the pool"),
    "half a pool": ("resume the pool",),
    "kept": ("evaluate without the teacher's file",),
    "weights": ("evaluate without the teacher's file",),
    "set": ("distil on the set", "look at the set"),
    "logits": ("distil",),
    "search": ("search",),
}
"""Who reads a place; each in a copy of its own."""
RESUMED = ("resume", "resume the bank", "resume the pool")
"""Commands that build on what is there, all of which has to be right in the end."""
INSTEAD = {
    "evaluate the stopped": [("stopped", "checkpoints/step_0000004")],
    "evaluate the finished": [("finished", "student.safetensors")],
    "inspect the finished": [("finished", "student.safetensors")],
}
"""What may be gone without an error, if it is said that something before it was taken."""
Damage = Callable[[Path], object]


def _replaced(content: bytes) -> Damage:
    return lambda path: path.write_bytes(content)


def _bit(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes() or b"\n")
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _gone(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _remove_below(path: Path, store: Path) -> None:
    _gone(store / path)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("a file")


def _loop(path: Path) -> None:
    _gone(path)
    path.symlink_to(path.name)


KINDS: dict[str, Damage] = {
    "half": _half,
    "nothing": _replaced(b""),
    "a bit": _bit,
    "a list": _replaced(b"[1, 2]"),
    "a number": _replaced(b"7"),
    "an object": _replaced(b"{}"),
    "text": _replaced(b"hello, world\n"),
    "noise": _replaced(random.Random(0).randbytes(300)),
    "no UTF-8": _replaced(b'{"state": "caf\xe9", "step": 2}\n'),
    "depth": _replaced(b"[" * 100_000),
    "a directory": _directory,
    "gone": _gone,
    "a loop": _loop,
}
_FLIPS = 24
OF_SHARDS: dict[str, Damage] = {f"a bit at {n}/{_FLIPS}": partial(_bit, place=n / _FLIPS) for n in range(_FLIPS)}
"""Of Parquet: headers of pages, pages, and what stands behind them."""
OF_FOLDERS: dict[str, Damage] = {"a file": _file, "gone": _gone, "a loop": _loop}


def _edited(change: Callable[[dict[str, Any]], None]) -> Damage:
    """Write JSON anew as raykd itself does, with other content."""

    def edit(path: Path) -> None:
        content = json.loads(path.read_text())
        content.pop("sha256", None)
        change(content)
        write_json(path, content)

    return edit


def _every(value: Any) -> Damage:
    return _edited(lambda content: content.update(dict.fromkeys(content, value)))


SHAPES: dict[str, Damage] = {
    "every value null": _every(None),
    "every value a list": _every([1]),
    "every value text": _every("text"),
    "every value a number": _every(-1),
    "every value an object": _every({"x": 1}),
    "no key": _edited(lambda content: content.clear()),
}
"""Of JSON: an object as raykd writes it, with other values."""


class _Bomb:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, ("trace",)


def _in_checkpoint(name: str, damage: Damage) -> Damage:
    """Damage a file of a checkpoint, and let the manifest vouch for what is there then."""

    def harm(checkpoint: Path) -> None:
        damage(checkpoint / name)
        told = {"sha256": sha256_of(checkpoint / name), "bytes": (checkpoint / name).stat().st_size}
        _edited(lambda content: content["files"].update({name: told}))(checkpoint / "manifest.json")

    return harm


def _state(change: Callable[[dict[str, Any]], object]) -> Damage:
    def harm(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        change(content)
        torch.save(content, path)

    return harm


def _tensors(path: Path) -> None:
    save_file({"x": torch.zeros(2)}, path)


def _shapes(path: Path) -> None:
    save_file({name: torch.zeros(*tensor.shape, 2) for name, tensor in load_file(path).items()}, path)


VOUCHED: dict[str, tuple[str, Damage]] = {
    "code": ("state.pt", lambda path: torch.save({"method": _Bomb()}, path)),
    "no torch file": ("state.pt", _replaced(b"hello, world\n")),
    "an empty state": ("state.pt", lambda path: torch.save({}, path)),
    "a list for a state": ("state.pt", lambda path: torch.save([1], path)),
    "a method of other keys": ("state.pt", _state(lambda state: state.update(method={"steps_done": 4}))),
    "another step": ("state.pt", _state(lambda state: state["method"].update(steps_done=1))),
    "a selection of text": ("state.pt", _state(lambda state: state.update(selection="text"))),
    "steps of nobody": ("state.pt", _state(lambda state: state["selection"].update(steps={"x": 1}))),
    "seconds of text": ("state.pt", _state(lambda state: state.update(seconds="text"))),
    "other buffers": ("state.pt", _state(lambda state: state.update(buffers=torch.zeros(1, 3)))),
    "an optimizer of other shapes": (
        "state.pt",
        _state(lambda state: state["method"]["updaters"]["student"]["optimizer"][0].update(exp_avg=torch.zeros(1, 2))),
    ),
    "weights of other keys": ("last.safetensors", _tensors),
    "weights of other shapes": ("blind.safetensors", _shapes),
    "weights of text": ("last.safetensors", _replaced(b"hello, world\n")),
    "a shard of other keys": ("shard_00000.safetensors", _tensors),
    "a shard of other shapes": ("shard_00000.safetensors", _shapes),
}
"""Of checkpoints: files whose sums are right."""


class Case(NamedTuple):
    """What is damaged, how, and which command follows."""

    place: str
    path: str
    kind: str
    verb: str

    @property
    def name(self) -> str:
        """Return what a test is called by."""
        return f"{self.place}: {self.path}: {self.kind}: {self.verb}"

    def harm(self, store: Path) -> None:
        """Damage the store."""
        folder = found(store, PLACES[self.place])
        if self.kind.startswith("both: "):
            for checkpoint in sorted((folder / "checkpoints").glob("step_*")):
                _damages(self)(checkpoint)
        else:
            _damages(self)(found(folder, self.path))


def _damages(case: Case) -> Damage:
    kind = case.kind.removeprefix("both: ")
    if kind in VOUCHED:
        return _in_checkpoint(*VOUCHED[kind])
    if case.kind.startswith("both: "):
        return lambda checkpoint: KINDS[kind](checkpoint / "state.pt")
    if kind in SHAPES:
        return SHAPES[kind]
    return (OF_FOLDERS if is_folder(case.path) else KINDS | OF_SHARDS)[kind]


def is_folder(path: str) -> bool:
    """Tell whether a folder is damaged, by its name alone."""
    return not Path(path).suffix and "events" not in path


def cases() -> list[Case]:
    """Return all cases, in the order of the tables above."""
    made = []
    for place, paths in FILES.items():
        for path in paths:
            kinds = list(OF_FOLDERS if is_folder(path) else KINDS) + (list(SHAPES) if path.endswith(".json") else [])
            for number, kind in enumerate(kinds):
                verbs: Sequence[str] = READERS[place]
                if path not in OF_ALL:
                    verbs = (verbs[number % len(verbs)],)
                made += [Case(place, path, kind, verb) for verb in verbs]
    for place, path, verb in (
        ("set", "train-00000-of-00001.parquet", "distil on the set"),
        ("logits", "*.parquet", "distil"),
    ):
        made += [Case(place, path, kind, verb) for kind in OF_SHARDS]
    of_shards = {kind for kind, (name, _) in VOUCHED.items() if name.startswith("shard")}
    of_bank = {*of_shards, "code", "no torch file", "an empty state", "a list for a state", "a method of other keys"}
    for kind in VOUCHED:
        for prefix in ("", "both: "):
            for place, step in (("stopped", 4), ("finished", 6)):
                if kind not in of_shards:
                    folder = f"checkpoints/step_{step:07d}"
                    judges = [verb for verb in READERS[place] if "inspect" not in verb and "read the" not in verb]
                    made += [Case(place, folder, prefix + kind, verb) for verb in judges]
            if kind in of_bank and (not prefix or kind not in of_shards):  # the checkpoint before has none
                made.append(Case("half a bank", "checkpoints/step_0000006", prefix + kind, "resume the bank"))
    made += [
        Case("stopped", "checkpoints/step_0000004", f"both: {kind}", verb)
        for kind in ("half", "gone", "a directory")
        for verb in READERS["stopped"]
    ]
    return made


@dataclass
class Store:
    """The undamaged store, and what each command makes of it."""

    root: Path
    _results: dict[str, list[Outcome]] = field(default_factory=dict)

    @cached_property
    def whole(self) -> Path:
        """Return the folder of the undamaged store, built when it is first asked for."""
        folder = self.root / "whole"
        folder.mkdir(parents=True)
        build(folder)
        return folder

    @cached_property
    def named(self) -> dict[str, str]:
        """Return where the places are."""
        return {
            place: found(self.whole, pattern).relative_to(self.whole).as_posix() for place, pattern in PLACES.items()
        }

    def run(self, verb: str, harm: Damage | None = None) -> Outcome:
        """Run a command in a copy of the store that ``harm`` has damaged."""
        with tempfile.TemporaryDirectory(dir=self.root) as name:
            copy = Path(name) / "copy"
            shutil.copytree(self.whole, copy, symlinks=True)
            if harm is not None:
                harm(copy)
            return run_in(copy, *(part.format(**self.named) for part in VERBS[verb]))

    def right(self, verb: str) -> list[Outcome]:
        """Return what a command may make of the store: of all of it, and of what is left without some of it."""
        if verb not in self._results:
            gone = [Path(self.named[place]) / path for place, path in INSTEAD.get(verb, ())]
            harms = [None, *(partial(_remove_below, path) for path in gone)]
            self._results[verb] = [self.run(verb, harm) for harm in harms]
            for outcome in self._results[verb]:
                assert outcome.code == 0, (verb, outcome)
        return self._results[verb]

    def judge(self, case: Case) -> tuple[Outcome, str | None]:
        """Run a case; return what came of it, and what is wrong with that."""
        outcome = self.run(case.verb, case.harm)
        return outcome, self._fault(case, outcome)

    def _fault(self, case: Case, outcome: Outcome) -> str | None:
        if outcome.traced:
            return "a traceback"
        if outcome.code == 0:
            return self._wrong(case, outcome)
        if outcome.code not in (2, 4):
            return f"exit code {outcome.code}"
        if len(outcome.errors) != 1:
            return f"{len(outcome.errors)} lines of error"
        names = (Path(case.path).name, Path(case.path).parent.name, Path(self.named[case.place]).name)
        if not any(name and name.replace("*", "") in outcome.errors[0] for name in names):
            return "the file is not named"
        if outcome.code == 2 and not may_be_missed(case):
            return "exit code 2"
        return None

    def _wrong(self, case: Case, outcome: Outcome) -> str | None:
        expected = self.right(case.verb)
        for index, right in enumerate(expected):
            keys = {*right.result, *outcome.result}
            differing = {key for key in keys if right.result.get(key) != outcome.result.get(key)}
            kept = right.sums.keys() if case.verb in RESUMED else outcome.changed | right.changed
            if any(outcome.sums.get(name) != right.sums.get(name) for name in kept):
                differing.add("what was written")
            if not differing:
                said = index == 0 or "warning: " in outcome.told
                return None if said else "what was there before was used, and nobody said so"
            if differing <= set(_of_teacher(right.result)) and outcome.result.get("teacher_missing"):
                return None
        return f"another result ({', '.join(sorted(differing)[:5])})"


def may_be_missed(case: Case) -> bool:
    """Tell whether what is left may be taken for something else: a file that is all that a thing is known by."""
    return case.kind in ("gone", "a loop", "a directory") and (case.place, case.path) in {
        ("teacher", "statistics.safetensors"),
        ("set", "train-00000-of-00001.parquet"),
    }


def _of_teacher(result: dict[str, Any]) -> Iterator[str]:
    yield "teacher_missing"
    for key, value in result.items():
        if key.startswith("teacher/") or key in ("agreement", "kl") or isinstance(value, dict):
            yield key


def main(words: Sequence[str]) -> None:
    """Run the cases, and print a table and what is wrong."""
    torch.manual_seed(0)
    chosen = [case for case in cases() if all(word in case.name for word in words)]
    table: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder).resolve())
        for case in chosen:
            outcome, fault = store.judge(case)
            table[case.kind.removeprefix("both: "), "traceback" if outcome.traced else str(outcome.code)] += 1
            if fault is not None:
                print(f"{case.name}\n    {fault}; {outcome.told.strip().splitlines()[-2:]}", flush=True)
    columns = ["0", "4", "2", "3", "traceback"]
    for kind in [*KINDS, "a file", *SHAPES, *VOUCHED, *OF_SHARDS]:
        print(f"{kind:32}", *(f"{table[kind, column]:9}" for column in columns))
    totals = {column: sum(n for (_, code), n in table.items() if code == column) for column in columns}
    print(f"{'exit code':32}", *(f"{column:>9}" for column in columns))
    print(f"{len(chosen):<32}", *(f"{totals[column]:9}" for column in columns))


if __name__ == "__main__":
    main(sys.argv[1:])

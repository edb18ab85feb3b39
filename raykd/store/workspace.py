"""Where data and runs are: folders of this machine, or what it holds of a store elsewhere."""

import hashlib
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from torch import nn

from raykd.config.data_root import expanded
from raykd.data.datasets import DATASETS
from raykd.distributed.world import World
from raykd.errors import CorruptError, RaykdError, SetupError, UsageError
from raykd.files import describe, is_file, make_folder, replacing, sha256_of, sweep
from raykd.methods import METHODS
from raykd.models.published import is_published
from raykd.models.weights_file import shards_of
from raykd.recipe.recipe import Recipe
from raykd.recipe.sections import DataConfig
from raykd.results import RunResult
from raykd.store.checkpoint import save_weights
from raykd.store.mirror import Mirror, Saved
from raykd.store.moved_aside import sweep_removed
from raykd.store.remote import Remote, check_address, is_remote
from raykd.store.run_directory import STATUS, RunDirectory
from raykd.store.status import parse_status
from raykd.tensors import checksum_metadata, read_tensors

logger = logging.getLogger(__name__)

_WEIGHTS_ADVICE = (
    "put the teacher's own file back where its recipe names it, or give the network again, and remove this copy"
)

Location = str | Path
"""A folder's path, or its address in an object store."""
_SHARED = ("weights", "statistics", "logits", "tables")
"""Folders of what no run owns."""
STORED = "store:"
"""How a recipe names what the store keeps for it: images in ``data/NAME``, weights in ``weights/NAME.safetensors``."""


@dataclass(frozen=True)
class Workspace:
    """Where data and weights are on this machine; never part of a recipe.

    With ``mirror`` (``data_mirror``) that folder is what this machine holds of a remote one.
    """

    data: Path | None
    store: Path
    mirror: Mirror | None = None
    data_mirror: Mirror | None = None

    @property
    def addresses(self) -> tuple[str, str | None]:
        """Return the store and the data root as another machine finds them, to be given to ``open_workspace`` there."""
        data = str(self.data) if self.data else None
        if self.data_mirror is not None:
            data = self.data_mirror.remote.address
        return (self.mirror.remote.address if self.mirror else str(self.store)), data

    def pull(self, names: Iterable[str], world: World, *, checkpoints: Saved = "unfinished") -> None:
        """Download runs or sets of the store; every worker must call it.

        Raises:
            SetupError: on all workers, if the store does not answer one of them.
        """
        mirror = self.mirror
        if mirror is None:
            return

        def pull_all() -> None:
            for name in names:
                mirror.pull(name, checkpoints=checkpoints)

        world.agree(pull_all)

    def display_name(self, name: str) -> str:
        """Return the path or the address of a run, as people and other machines know it."""
        return self.mirror.remote.display_name(name) if self.mirror else str(self.store / name)

    def run(self, run_id: str) -> RunDirectory:
        """Return the directory of a run on this machine, whether or not it is there."""
        return RunDirectory(self.store / run_id)

    def state_of(self, run_id: str) -> str | None:
        """Return the state of a run as the store has it, without pulling it; None before it began."""
        if self.mirror is not None:
            state = parse_status(self.mirror.remote.read(f"{run_id}/{STATUS}") or b"").get("state")
        else:
            state = self.run(run_id).status().get("state")
        return state if isinstance(state, str) else None

    def kept_weights(self, sha256: str) -> Path | None:
        """Return the store's copy of a teacher's weights, by the sum of the file that they came in, if it has one.

        One that ``keep_weights`` wrote bears the sum of its own content; one of ``keep_network`` is that file itself.

        Raises:
            CorruptError: if it is damaged.
        """
        path = self._weights(sha256)
        if self.mirror is not None and not path.is_file():
            self.mirror.pull_once(self._name_of(path))
        if not is_file(path):
            return None
        read_tensors(path, _WEIGHTS_ADVICE, sha256=sha256)
        return path

    def keep_weights(self, sha256: str, network: nn.Module) -> None:
        """Keep a copy of a teacher's weights, which belong to no run: what is trained against them can then move.

        Raises:
            SetupError: if the disk does not take it, or the store does not answer.
        """
        path, weights = self._weights(sha256), network.state_dict()
        if is_file(path):
            try:
                read_tensors(path, "it is written again", sha256=sha256)
                return
            except CorruptError as error:
                logger.warning("%s", error)
        try:
            make_folder(path.parent)
            with replacing(path) as staging:
                save_weights(weights, staging, checksum_metadata(weights))
            if self.mirror is not None:
                self.mirror.push_file(path, self._name_of(path))
        except (OSError, SafetensorError) as error:
            raise SetupError(
                f"could not keep the teacher's weights in {path.parent} ({describe(error)}); free some space or mend "
                "the storage, then run the same command"
            ) from None

    def keep_network(self, network: nn.Module) -> str:
        """Keep the weights of a network that lies in memory; return how a recipe names them.

        Raises:
            SetupError: if the disk does not take it.
        """
        folder = self._weights("").parent
        staging = folder / f".{uuid.uuid4().hex}.writing"
        try:
            make_folder(folder)
            save_weights(network.state_dict(), staging)
            sha256 = sha256_of(staging)
            staging.replace(self._weights(sha256))
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                staging.unlink(missing_ok=True)
            raise SetupError(
                f"could not keep the network's weights in {folder} ({describe(error)}); free some space"
            ) from None
        return STORED + sha256

    def located(self, data: DataConfig) -> DataConfig:
        """Return the section with the sets that this store keeps as the folders where they lie."""
        kept = {key: getattr(data, key) for key in ("name", "train", "ood")}
        found = {
            key: str(self.store / "data" / name.removeprefix(STORED))
            for key, name in kept.items()
            if name is not None and name.startswith(STORED)
        }
        return data.model_copy(update=found) if found else data

    def _weights(self, sha256: str) -> Path:
        return self.store / "weights" / f"{sha256}.safetensors"

    def _name_of(self, path: Path) -> str:
        return path.relative_to(self.store).as_posix()

    def sweep(self) -> None:
        """Remove what processes that died have left half written, or half removed, beside the runs."""
        sweep_removed(self.store)
        for name in _SHARED:
            sweep(self.store / name)

    def remove(self, name: str) -> None:
        """Remove a folder of the store."""
        if self.mirror is not None:
            self.mirror.remote.remove(name)
        shutil.rmtree(self.store / name, ignore_errors=True)

    def push(self, name: str, world: World) -> None:
        """Let rank 0 send what is new of a run or a set to the store; every worker must call it.

        Raises:
            SetupError: on all workers, if the store does not answer.
        """
        mirror = self.mirror
        if mirror is not None:
            world.agree(lambda: mirror.push(name), on_first=True)

    def note_end(self, run_id: str, reason: str, state: str = "failed") -> None:
        """Write into a run's status, here and in the store, why it ended, for workers that died before they could.

        Where that cannot be written it is said, and not raised: what ended the run is what counts.
        """
        run, alone = self.run(run_id), World.alone()
        try:
            self.pull([run_id], alone, checkpoints="none")
            if run.has_begun and run.status().get("state") != "finished":
                run.write_status(state=state, reason=reason)
                self.push(run_id, alone)
        except (RaykdError, OSError) as error:
            logger.warning("run %s cannot be marked as %s: %s", run_id, state, error)

    def pull_data(self, recipe: Recipe, *, train: bool = True) -> None:
        """Download what a recipe names, once: the splits that it opens, weights and other files.

        Without ``train`` no more than is needed to judge what it has trained.

        Raises:
            SetupError: if the store does not answer.
        """
        if self.data_mirror is not None:
            for name, split in _data_of(recipe, train):
                if not name.startswith((".", "/", STORED)) and ".." not in Path(name).parts:
                    self.data_mirror.pull_once(name, split)
                    folder = Path(name).parent  # weights may lie in several files, which their index names
                    for shard in [] if split else shards_of(self.data_mirror.local / name):
                        self.data_mirror.pull_once((folder / shard).as_posix())


def open_workspace(store: Location, data_root: Location | None, *, known: bool = False) -> Workspace:
    """Return the roots of a store and of data, each a path or an address.

    Where a command was told that they answer, what it starts finds them ``known``: it outlasts an outage from the first
    contact on.

    Raises:
        UsageError: for an address that is none.
        SetupError: if an object store does not answer or does not let us in, or there is no folder for its copy.
    """
    mirror = _mirror(store, known) if is_remote(store) else None
    data_mirror = _mirror(data_root, known) if data_root and is_remote(data_root) else None
    return Workspace(local_folder(data_root) if data_root else None, local_folder(store), mirror, data_mirror)


def local_folder(location: Location) -> Path:
    """Return the folder of this machine that stands for a location; asks nobody.

    Of an object store that is a folder of its own below ``RAYKD_CACHE`` (default: ``~/.cache/raykd``).
    """
    if not is_remote(location):
        return expanded(location, "a folder").absolute()
    address = check_address(str(location))
    cache = os.environ.get("RAYKD_CACHE")
    folder = expanded(cache, "RAYKD_CACHE") if cache else _default_cache()
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", address.partition("?")[0])
    return folder.absolute() / f"{readable}-{hashlib.sha256(address.encode()).hexdigest()[:8]}"


def _default_cache() -> Path:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "raykd"
    except RuntimeError:
        raise SetupError(
            "an object store needs a folder of this machine for what it holds of it, and no home is known here: set "
            "RAYKD_CACHE to a folder that can be written"
        ) from None


def location_of(run: Location | RunResult) -> Location:
    """Return where a run's directory is: itself if it is named, or what a result says.

    Raises:
        UsageError: if it does not say.
    """
    if not isinstance(run, RunResult):
        return run
    if run.directory is None:
        raise UsageError(f"the result of {run.run} does not say where its directory is: give that")
    return run.directory


def pull_run(
    where: Location, data_root: Location | None, *, checkpoints: Saved = "unfinished", train: bool = False
) -> tuple[RunDirectory, Path | None]:
    """Return the directory of a run on this machine and the data root here.

    From an object store the run is downloaded, with those it builds on and the data that it names: what is needed to
    judge what it has trained. With ``train`` what it has learned from comes too, generators in checkpoints among it.

    Raises:
        UsageError: for an address that is none, or where there is no run.
        SetupError: if an object store does not answer or does not let us in.
    """
    remote = is_remote(where)
    if not remote and not (data_root and is_remote(data_root)):
        return RunDirectory(Path(where)), Path(data_root) if data_root else None
    bare, mark, options = str(where).partition("?") if remote else (str(Path(where).absolute()), "", "")
    folder, _, name = bare.rstrip("/").rpartition("/")
    workspace, alone = open_workspace(folder + mark + options, data_root), World.alone()
    workspace.pull([name], alone, checkpoints="all" if train else checkpoints)
    run = RunDirectory(workspace.store / name)
    if not run.exists:
        raise UsageError(f"{where} is no run; give what `raykd train` printed")
    experiment = run.experiment()
    workspace.pull(experiment.built_upon, alone, checkpoints="none")
    workspace.pull_data(experiment.recipe, train=train)
    return run, workspace.data


def _data_of(recipe: Recipe, train: bool) -> list[tuple[str, str]]:
    """Return the sets that a recipe opens, each with a split, and its files, without one."""
    data, streams, networks = recipe.data, METHODS[recipe.method.name].streams, (recipe.teacher, recipe.student)
    calibration = recipe.calibration
    own = [one for one in networks if one is not None and not is_published(one.model, one.weights)]
    files = [*(network.weights for network in own), data.ood_index]
    files += [getattr(recipe.method, "embeddings", None)]
    opened: list[str | None] = []
    if train:
        opened = [(data.train or data.name) if "train" in streams else None, data.ood]
        opened += [data.name] if calibration and calibration.per_class else []
        files += [calibration.file] if calibration else []
    # What a set of the user's looks like stands in its files, so one of its splits is needed in any case.
    test = [(data.name, "test")] if data.test or data.name not in DATASETS else []
    return [*test, *((name, "train") for name in opened if name), *((name, "") for name in files if name)]


def _mirror(location: Location, known: bool) -> Mirror:
    return Mirror(Remote(str(location), known=known), local_folder(location))

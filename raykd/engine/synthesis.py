"""A synthetic set made of a bank: images, the classes asked of the generators, and the teacher's answers.

Row i's class and latent depend on the bank run's seed and on i alone; each of K classes comes once in every K rows.
Files are written one by one: what is held in memory is one file's content, one group of members, one batch of images.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raykd.data.spec import DataSpec
from raykd.data.synthetic import MANIFEST, PixelRange, SyntheticFolder, alone_in
from raykd.engine.bank import FOLDER, BankFiles, open_bank
from raykd.engine.build import Roots, load_teacher, spec_of
from raykd.engine.checkpoint import write_text
from raykd.errors import CorruptError, RunFailed, UsageError
from raykd.generators import EVERY, GeneratorBank
from raykd.models.teacher import Teacher
from raykd.parallel import World, mix
from raykd.recipe import Recipe, bank_run, recipe_from_dict
from raykd.yaml_file import load_yaml

logger = logging.getLogger(__name__)

_SEED = 0x517E  # apart from all that training draws by the recipe's seed
_ORDER, _LATENT = 0, 1
_SAMPLE = 1024  # images that the pixel range is taken from
_SAMPLE_VALUES = 4096  # of each of them and each channel at most
_GROUP_BYTES = 512 * 2**20  # of members held at a time
_MOST_IMAGES = 512  # generated or judged at a time
_BATCH_PIXELS = 2**20  # of them together, so that large images come in smaller batches


def synthesize(run: Path, images: int, out: Path, data_root: Path | None) -> dict[str, Any]:
    """Write a set of so many images of a run's bank to ``out``, or what is missing of it; return what it is.

    ``run`` is the directory of a bank's run, or of a run that learned from a bank in the same store. The same call
    goes on behind the last whole file, and a finished set is only checked.

    Raises:
        UsageError: for a run without a bank, a teacher that is not there or another, or a folder in use otherwise.
        CorruptError: if the bank or what is in ``out`` is damaged.
    """
    if images < 1:
        raise UsageError(f"--images {images}: a set has 1 image or more")
    home, recipe = _find_bank(run)
    bank = open_bank(home)
    roots = Roots(data_root, home.parent)
    spec = spec_of(recipe.data, roots)
    teacher, digest = _teacher_of(bank, recipe, spec, roots)
    facts = {
        "bank": home.name,
        "bank_sha256": hashlib.sha256(json.dumps(dict(bank.about), sort_keys=True).encode()).hexdigest(),
        "teacher_sha256": digest,
        "seed": str(recipe.seed),
    }
    folder = SyntheticFolder(out, spec, images, facts)
    device = World.current().device
    source = _Source(bank, recipe.seed, device)
    with alone_in(out):
        present = folder.present()
        finished = len(present) == len(folder.files) and (out / MANIFEST).is_file()
        if finished:
            logger.info("%s is finished already: checking its files", out)
            _verify(out)
        else:
            (out / MANIFEST).unlink(missing_ok=True)
            bounds = folder.read_range(present[0]) if present else PixelRange.of(source.sample())
            shown = replace(spec, mean=bounds.mean, std=bounds.std)
            teacher = teacher.to(device)
            for path, rows in folder.files.items():
                if path in present:
                    continue
                pixels, labels, logits = _make(source, teacher, shown, bounds, rows)
                folder.write(path, pixels, labels, logits, bounds)
                logger.info("%s: images %s to %s of %s", path.name, f"{rows[0]:,}", f"{rows[-1]:,}", f"{images:,}")
            _write_manifest(folder, bounds)
    return {
        "set": out.resolve().name,
        "folder": str(out),
        "images": images,
        "files": len(folder.files),
        "written": 0 if finished else len(folder.files) - len(present),
        **facts,
    }


def _find_bank(run: Path) -> tuple[Path, Recipe]:
    """Return the directory of the bank's run, with its recipe."""
    recipe = _recipe_of(run)
    run = run.resolve()
    if (run / FOLDER).is_dir():
        return run, recipe
    if recipe.bank is None:
        raise UsageError(
            f"run {run.name} has no bank of generators, nor did it learn from one; give the directory of a run whose "
            "recipe trains a bank, or of a student of it (`raykd list recipes`)"
        )
    source = bank_run(recipe)
    home = run.parent / (recipe.bank.run or "" if source is None else source.run_id)
    if not (home / FOLDER).is_dir():
        raise UsageError(
            f"run {run.name} learned from the bank of run {home.name}, which is not beside it in {run.parent}; "
            "give the directory of that run"
        )
    return home, _recipe_of(home)


def _recipe_of(run: Path) -> Recipe:
    file = run / "recipe.yaml"
    if not file.is_file():
        kind = "is not a run directory: it has no" if run.is_dir() else "does not exist; no"
        raise UsageError(f"{run} {kind} {file.name}; give the directory that `raykd train` printed")
    try:
        return recipe_from_dict(load_yaml(file))
    except UsageError as error:
        raise CorruptError(f"{run.name}/{file.name} is damaged: {error}") from error


def _teacher_of(bank: BankFiles, recipe: Recipe, spec: DataSpec, roots: Roots) -> tuple[Teacher, str]:
    if not bank.matches(spec):
        raise UsageError(
            f"the bank in {bank.folder.parent.name} was trained for other images than data {spec.name!r} has now "
            f"({spec.num_classes} classes, {spec.channels}x{spec.size}x{spec.size}, {spec.mean}/{spec.std}); "
            "bring the data set back, or train the bank again"
        )
    if recipe.teacher is None:
        raise CorruptError(f"{bank.folder.parent.name}/recipe.yaml names no teacher; restore it")
    teacher, digest = load_teacher(recipe.teacher, spec, roots)
    if digest != bank.about["teacher_sha256"]:
        raise UsageError(
            f"the teacher's weights are not those that the bank in {bank.folder.parent.name} was trained against "
            f"(sha256 {bank.about['teacher_sha256']} then, {digest} now): put them back, or train the bank again"
        )
    return teacher, digest


class _Source:
    """The bank as a numbered row of images, of which one group of members is held at a time."""

    def __init__(self, bank: BankFiles, seed: int, device: torch.device) -> None:
        about = bank.about
        self._bank = bank
        self._seed = mix(seed, _SEED)
        self._device = device
        self._values = int(about["size"]) ** 2
        self.single = bank.classes == (EVERY,)
        self.labelled = not self.single or about["conditions"] > 0
        self._classes = torch.tensor(range(bank.num_classes) if self.single else bank.classes)
        count = max(1, _GROUP_BYTES * len(bank.classes) // (4 * bank.numbers))
        self._groups = [bank.classes[i : i + count] for i in range(0, len(bank.classes), count)]
        self._held: tuple[tuple[int, ...], GeneratorBank] | None = None

    @property
    def batch(self) -> int:
        """Return how many images to make or judge at a time."""
        return max(8, min(_MOST_IMAGES, _BATCH_PIXELS // self._values))

    def asked(self, rows: range) -> Tensor:
        """Return the classes asked of the generators for the rows, int64 (N,)."""
        every = len(self._classes)
        rounds = range(rows.start // every, (rows.stop - 1) // every + 1)
        generator = torch.Generator()
        order = [
            torch.randperm(every, generator=generator.manual_seed(mix(self._seed, _ORDER, round_))) for round_ in rounds
        ]
        first = rows.start - rounds.start * every
        return self._classes[torch.cat(order)[first : first + len(rows)]]

    def images(self, rows: range) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images of all rows in pieces: (places among the rows (B,), normalised images (B, C, H, W)).

        Raises:
            RunFailed: if an image is not finite.
        """
        asked = self.asked(rows)
        for group in self._groups:
            # By class, so that a batch takes few members.
            places = asked.argsort(stable=True)
            if not self.single:
                places = places[torch.isin(asked[places], torch.tensor(group))]
            for some in places.split(self.batch):
                if not len(some):
                    continue
                latents = self._latents([rows[place] for place in some.tolist()])
                with torch.no_grad():
                    images = self._members(group).mixed(latents, asked[some].to(self._device))
                if not images.isfinite().all():
                    raise RunFailed(f"the bank in {self._bank.folder.parent.name} makes images that are not finite")
                yield some, images

    def sample(self) -> Tensor:
        """Return values of the first images, (C, M)."""
        stride = -(-self._values // _SAMPLE_VALUES)
        pieces = [images.flatten(2)[..., ::stride].cpu() for _, images in self.images(range(_SAMPLE))]
        return torch.cat(pieces).transpose(0, 1).flatten(1)

    def _latents(self, rows: list[int]) -> Tensor:
        # On the CPU, whose generator gives the same numbers on every machine.
        generator = torch.Generator()
        size = self._bank.config.latent_dim
        seeds = (mix(self._seed, _LATENT, row) for row in rows)
        latents = torch.stack([torch.randn(size, generator=generator.manual_seed(seed)) for seed in seeds])
        return latents.to(self._device)

    def _members(self, group: tuple[int, ...]) -> GeneratorBank:
        if self._held is None or self._held[0] != group:
            self._held = None  # before the next ones come
            self._held = group, self._bank.load(group).to(self._device)
        return self._held[1]


def _make(
    source: _Source, teacher: Teacher, shown: DataSpec, bounds: PixelRange, rows: range
) -> tuple[Tensor, Tensor, Tensor]:
    """Return one file's pixels, labels and teacher logits; ``shown`` normalises what is stored."""
    pixels = torch.empty(len(rows), shown.channels, shown.size, shown.size, dtype=torch.uint8)
    for places, images in source.images(rows):
        pixels[places] = bounds.store(images).cpu()
    device = next(teacher.parameters()).device
    logits = torch.empty(len(rows), shown.num_classes)
    with torch.no_grad():
        for some, answers in zip(pixels.split(source.batch), logits.split(source.batch), strict=True):
            answers.copy_(teacher(shown.normalise(some.to(device).float() / 255))[0])
    return pixels, source.asked(rows) if source.labelled else logits.argmax(1), logits


def _write_manifest(folder: SyntheticFolder, bounds: PixelRange) -> None:
    manifest = {
        "rows": folder.rows,
        **folder.facts,
        "normalisation": {"mean": bounds.mean, "std": bounds.std},
        "pixel_range": {"low": bounds.low, "high": bounds.high},
        "files": {path.name: _sha256(path) for path in folder.files},
    }
    write_text(folder.folder / MANIFEST, json.dumps(manifest, indent=1))


def _verify(folder: Path) -> None:
    try:
        sums = dict(json.loads((folder / MANIFEST).read_text())["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(f"{folder / MANIFEST} is not readable ({error}); delete it and run this again") from error
    for name, expected in sums.items():
        if not (folder / name).is_file() or _sha256(folder / name) != expected:
            raise CorruptError(f"{folder / name} differs from its checksum; delete it and run this again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Networks of a few hundred weights with everything that can go wrong in one: BatchNorm, dropout."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from raykd.config.optim import Optimizer, Sgd
from raykd.data.datasets import Images
from raykd.data.streams import TrainStream
from raykd.distributed.updater import Compiler
from raykd.distributed.world import World
from raykd.generators import GeneratorBank, GeneratorConfig
from raykd.methods import METHODS, Method, MethodConfig
from raykd.methods.base import PATCHES, ClassMoments, MethodContext
from raykd.models.moments import MomentTeacher
from raykd.models.teacher import Teacher
from raykd.spec import Batch, DataSpec

SPEC = DataSpec("made", 4, 1, 8, (0.3,), (0.4,), ("a", "b", "c", "d"))
BATCH, STEPS = 8, 10
OPTIM = {"name": "adam", "lr": 1e-2, "schedule": {"name": "cosine"}}
GENERATOR = {"latent_dim": 6, "width": 8}
METHOD_CONFIGS: dict[str, dict[str, Any]] = {
    "supervised": {},
    "label_smoothing": {},
    "kd": {},
    "tfkd_self": {},
    "tfkd_reg": {},
    "blind_kd": {},
    "noise": {},
    "dafl": {"latent_dim": 6, "generator_width": 8, "generator_optim": OPTIM},
    "lsgdfd": {"statistics": "class", "generator": GENERATOR, "generator_optim": {**OPTIM, "lr": 3e-3}},
    "lsgdfd_single": {"conditional": True, "generator": GENERATOR, "generator_optim": OPTIM},
    "bank_kd": {},
    "mosaickd": {
        "latent_dim": 6,
        "generator_width": 8,
        "discriminator_width": 4,
        "student_steps": 2,
        "generator_optim": OPTIM,
        "discriminator_optim": OPTIM,
    },
    "adversarial": {
        "latent_dim": 6,
        "generator_width": 8,
        "student_updates": 2,
        "generator_optim": {**OPTIM, "lr": 1e-3},
    },
    "pixel_inversion": {"images": BATCH, "pixel_optim": {**OPTIM, "lr": 0.1}},
    "pool_inversion": {
        "latent_dim": 6,
        "generator_maps": (8, 8, 4),
        "inner_steps": 2,
        "warmup_calls": 1,
        "student_steps": 2,
        "moment_weight": 1.0,
    },
}
"""What each method of the table needs besides its defaults."""


class Plain(nn.Module):
    """Convolution, BatchNorm, dropout, two linear layers."""

    def __init__(self, width: int = 4, dropout: float = 0.2) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten())
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(9 * width, 12)
        self.head = nn.Linear(12, SPEC.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.hidden(self.dropout(self.body(images))).relu())
        return logits


def made_images(count: int = 40, seed: int = 0) -> Images:
    """Noise whose brightness tells the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    noise = torch.randint(0, 80, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return Images(noise + 50 * labels.to(torch.uint8).view(-1, 1, 1, 1), labels)


def made_teacher(seed: int = 1, width: int = 8) -> Teacher:
    """A teacher with opinions: sharp logits, and running statistics unlike the initial ones."""
    torch.manual_seed(seed)
    network = Plain(width)
    for _ in range(5):
        network(torch.randn(64, 1, 8, 8))
    with torch.no_grad():
        network.head.weight.mul_(8)
    return Teacher(network, channels=1, size=8)


@torch.no_grad()
def made_statistics(teacher: Teacher) -> ClassMoments:
    """The moments that noise of each class's brightness causes in the teacher."""
    data = made_images(200, seed=3)
    images = SPEC.normalise(data.pixels[data.labels.argsort(stable=True)] / 255)
    counts = data.labels.bincount().tolist()
    look = MomentTeacher(copy.deepcopy(teacher))
    taken = [look(part)[2] for part in images.split(counts)]
    return [(torch.cat([m for m, _ in layer]), torch.cat([v for _, v in layer])) for layer in zip(*taken, strict=True)]


@torch.no_grad()
def made_bank(classes: Sequence[int] = range(SPEC.num_classes)) -> GeneratorBank:
    """Frozen generators whose running statistics are unlike the initial ones."""
    bank = GeneratorBank(classes, GeneratorConfig.model_validate(GENERATOR), channels=1, size=8)
    bank.initialise(0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        bank(torch.randn(len(bank.classes), 16, bank.latent_dim, generator=generator))
    return bank.eval().requires_grad_(False)


def made_setting(
    *,
    teacher: Teacher | None = None,
    optim: Optimizer | None = None,
    world: World | None = None,
    compiler: Compiler = lambda network: network,
    dropout: float = 0.2,
    seed: int = 0,
) -> MethodContext:
    torch.manual_seed(seed)
    student = Plain(dropout=dropout)
    teacher = teacher or made_teacher()
    return MethodContext(
        spec=SPEC,
        world=world or World.alone(),
        networks={"student": student, "teacher": teacher, "bank": made_bank()},
        student_optim=optim or Sgd(name="sgd", lr=0.05),
        steps=STEPS,
        global_batch=BATCH,
        seed=seed,
        compiler=compiler,
        statistics=made_statistics(teacher),
    )


def made_config(name: str, **fields: Any) -> Any:
    """Validate through the union, as a recipe does."""
    return TypeAdapter(MethodConfig).validate_python({"name": name, **METHOD_CONFIGS[name], **fields})


def made_method(name: str, context: MethodContext | None = None, **fields: Any) -> Method:
    context = context or made_setting()
    if name == "tfkd_self":  # its teacher is the student's own architecture
        context = replace(context, networks={**context.networks, "teacher": made_teacher(width=4)})
    torch.manual_seed(context.seed + 7)
    method: Method = METHODS[name](made_config(name, **fields), context)
    return method


def made_batches(method: Method, step: int) -> dict[str, Batch]:
    config = getattr(method, "_config", None)
    updates = method.student_updates_per_step(config)
    return {
        role: TrainStream(
            made_images(), SPEC, method.world, BATCH, 0, ("crop", "flip"), per_step=1 if role == PATCHES else updates
        ).batch(step)
        for role in method.streams
    }


def advance(method: Method, steps: int) -> list[dict[str, float]]:
    rows = []
    for _ in range(steps):
        metrics = method.step(made_batches(method, method.steps_done))
        rows.append({name: value.item() for name, value in metrics.items()})
    return rows


def tensors(tree: Any, prefix: str = "") -> dict[str, Tensor]:
    """Flatten nested dicts and lists of tensors and numbers."""
    if isinstance(tree, Tensor):
        return {prefix: tree}
    if isinstance(tree, dict):
        pairs = tree.items()
    elif isinstance(tree, list | tuple):
        pairs = enumerate(tree)  # type: ignore[assignment]
    else:
        return {prefix: torch.tensor(tree)}
    return {k: v for key, inner in pairs for k, v in tensors(inner, f"{prefix}/{key}").items()}


def assert_same(ours: Any, theirs: Any) -> None:
    """Compare two states bit for bit, naming what differs."""
    left, right = tensors(ours), tensors(theirs)
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []

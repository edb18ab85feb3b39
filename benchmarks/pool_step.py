"""Time the pool's two steps, inverting and learning, against the obvious implementation of the same.

    python benchmarks/pool_step.py [--batch 128] [--rounds 5] [--compile] [--json]

The obvious one is what research scripts do: moments by forward hooks that autograd differentiates, a teacher whose
parameters collect gradients nobody uses, upsampling followed by a convolution, a pool of PNG files that are opened,
cropped, mirrored and normalised image by image. Ours is `raykd.methods.pool_inversion` as a run steps it: eager, or
compiled (``--compile``), and its student with cached views. Networks, batches and losses are of the same shapes:
CIFAR ResNet-20 -> WRN-10-1, a generator of 32, 32, 16 maps, the adversary on. CPU seconds of one thread, in rounds that
alternate; the medians of the rounds' ratios are printed.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from raykd.config.optim import Sgd
from raykd.config.runtime import Compile
from raykd.data.datasets import DATASETS
from raykd.distributed.world import World
from raykd.engine.compiling import choose_compiler
from raykd.methods.base import MethodContext
from raykd.methods.pool_inversion import PoolInversion, PoolInversionConfig
from raykd.models import build_model
from raykd.models.teacher import Teacher

SPEC = DATASETS["cifar10"]
MAPS = (32, 32, 16)
LATENT = 256
INNER = 2  # steps of an inversion, of whose time one is a half


def network(name: str) -> nn.Module:
    """Build a classifier of CIFAR-10."""
    return build_model(name, num_classes=SPEC.num_classes, channels=SPEC.channels, size=SPEC.size)


class Obvious:
    """The same two steps, written without a thought for time."""

    def __init__(self, batch: int, folder: Path, device: str = "cpu") -> None:
        """Build the networks and a pool of PNG files."""
        self.batch, self.folder, self.device = batch, folder, device
        self.teacher, self.student = network("cifar_resnet20").eval().to(device), network("wrn_10_1").to(device)
        first, second, third = MAPS
        self.generator = nn.Sequential(
            nn.Linear(LATENT, first * 64), nn.Unflatten(1, (first, 8, 8)), nn.BatchNorm2d(first),
            nn.Upsample(scale_factor=2), nn.Conv2d(first, second, 3, 1, 1), nn.BatchNorm2d(second), nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2), nn.Conv2d(second, third, 3, 1, 1), nn.BatchNorm2d(third), nn.LeakyReLU(0.2),
            nn.Conv2d(third, 3, 3, 1, 1), nn.Sigmoid(),
        ).to(device)  # fmt: skip
        self.moment_losses: list[Tensor] = []
        for layer in self.teacher.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.register_forward_hook(self._hook)
        self.of_student = torch.optim.SGD(self.student.parameters(), 0.1, momentum=0.9, weight_decay=1e-4, fused=False)
        for index in range(batch):
            pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(folder / f"{index}.png")
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(SPEC.mean, SPEC.std),
            ]
        )

    def _hook(self, layer: nn.BatchNorm2d, inputs: tuple[Tensor], output: Tensor) -> None:
        x = inputs[0]
        mean = x.mean([0, 2, 3])
        variance = x.permute(1, 0, 2, 3).reshape(x.shape[1], -1).var(1, unbiased=False)
        stored_mean, stored_variance = layer.running_mean, layer.running_var
        assert stored_mean is not None
        assert stored_variance is not None
        self.moment_losses.append(torch.norm(mean - stored_mean, 2) + torch.norm(variance - stored_variance, 2))

    def invert(self) -> None:
        """Take the inner steps for a batch."""
        z = torch.randn(self.batch, LATENT, device=self.device, requires_grad=True)
        labels = torch.randint(0, 10, (self.batch,), device=self.device)
        groups: list[dict[str, Any]] = [{"params": self.generator.parameters()}, {"params": [z], "lr": 0.01}]
        optimizer = torch.optim.Adam(groups, 2e-3, (0.5, 0.999), fused=False)
        self.student.eval()
        for _ in range(INNER):
            images = self._shown(self.generator(z))
            self.moment_losses.clear()
            t = self.teacher(images)
            moments = torch.stack(self.moment_losses).sum()
            s = self.student(images)
            agree = (s.argmax(1) == t.argmax(1)).float()
            divergence = F.kl_div(s.log_softmax(1), t.softmax(1), reduction="none").sum(1)
            loss = 10 * moments + 0.5 * F.cross_entropy(t, labels) - 1.1 * (divergence * agree).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.student.train()

    def _shown(self, unit: Tensor) -> Tensor:
        """Crop and mirror a batch on the device, as the published code does here too, and normalise."""
        padded = F.pad(unit, (4, 4, 4, 4))
        y, x = random.randint(0, 8), random.randint(0, 8)
        cut = padded[:, :, y : y + 32, x : x + 32]
        cut = torch.where(torch.rand(len(cut), 1, 1, 1, device=cut.device) < 0.5, cut.flip(-1), cut)
        return SPEC.normalise(cut)

    def learn(self) -> None:
        """Take one step of the student."""
        files = sorted(self.folder.iterdir())
        images = torch.stack([self.transform(Image.open(random.choice(files))) for _ in range(self.batch)])
        images = images.to(self.device)
        with torch.no_grad():
            t = self.teacher(images)
        s = self.student(images)
        kd = F.kl_div((s / 20).log_softmax(1), (t / 20).softmax(1), reduction="batchmean") * 400
        self.of_student.zero_grad()
        kd.backward()
        self.of_student.step()


def ours(batch: int, *, views: int, compile: Compile, world: World) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return our inversion of a batch and our student's step."""
    names, layout = ("cifar_resnet20", "wrn_10_1"), torch.channels_last
    networks = [network(name).to(world.device).to(memory_format=layout) for name in names]
    context = MethodContext(
        spec=SPEC,
        world=world,
        networks={"teacher": Teacher(networks[0], channels=3, size=32), "student": networks[1]},
        student_optim=Sgd(name="sgd", lr=0.1, weight_decay=1e-4),
        steps=1000,
        global_batch=batch,
        seed=0,
        compiler=choose_compiler(compile, world.device, 0),
        mirrored=True,
    )
    config = PoolInversionConfig(
        name="pool_inversion",
        generator_maps=MAPS,
        inner_steps=INNER,
        warmup_calls=0,
        views=views,
        max_images=batch,
        student_steps=1,
    )
    method = PoolInversion(config, context)
    method.step({})
    steps = iter(range(10**6))
    return lambda: method.invert(0), lambda: method.update_student(next(steps))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="ours compiled too; that takes a minute or more")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        obvious = Obvious(arguments.batch, Path(folder))
        kinds: list[Compile] = ["off", *(["on"] if arguments.compile else [])]  # type: ignore[list-item]
        ways: dict[str, dict[str, Callable[[], Any]]] = {
            "invert": {"obvious": obvious.invert}, "learn": {"obvious": obvious.learn},
        }  # fmt: skip
        for compile in kinds:
            name = "eager" if compile == "off" else "compiled"
            asked, cached = (ours(arguments.batch, views=n, compile=compile, world=World.alone()) for n in (0, 2))
            ways["invert"][name], ways["learn"][name] = asked
            ways["learn"][f"{name}, cached views"] = cached[1]
        table = {step: measure(each, arguments.rounds) for step, each in ways.items()}
    if arguments.json:
        print(json.dumps(table))
        return
    print(f"batch {arguments.batch}, 1 thread, {arguments.rounds} rounds; torch {torch.__version__}")
    print("| step | way | CPU s | faster than the obvious |")
    print("|---|---|---|---|")
    for step, rows in table.items():
        for way, (seconds, ratio) in rows.items():
            print(f"| {step} | {way} | {seconds / (INNER if step == 'invert' else 1):.3f} | {ratio:.2f} |")


def measure(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, float]]:
    """Return the median CPU seconds of each way, and of the ratios of the first one's to it in the same round."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way, step in ways.items():
            began = time.process_time()
            step()
            if turn:  # the first warms up
                seconds[way].append(time.process_time() - began)
    first = next(iter(seconds.values()))
    return {way: (median(own), median(a / b for a, b in zip(first, own, strict=True))) for way, own in seconds.items()}


if __name__ == "__main__":
    main()

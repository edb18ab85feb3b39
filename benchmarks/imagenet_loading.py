"""Images of ImageNet's size from files to a network's input: torchvision's ImageFolder and DataLoader against raykd.

    python benchmarks/imagenet_loading.py [--images 512] [--rounds 5] [--batch 64]

The images are mosaics of the photos of RAYKD_DATA's tiny-imagenet-50, or of noise without it, of ImageNet's mean size,
as JPEGs of about 110 KB. The ways take turns; seconds are of the processor, those of worker processes included, so that
"a core" is one that does nothing else. torchvision's transforms are those of its reference training and evaluation,
in one worker process; raykd decodes in threads, and normalises (on the device, where there is one) in the last step.
"""

import argparse
import io
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from raykd.data import parquet
from raykd.data.convert import convert
from raykd.data.datasets import data_spec, load_images
from raykd.data.imagenet_labels import all_wnids
from raykd.data.stored import StoredImages
from raykd.data.streamed import StreamedImages
from raykd.data.streams import TrainStream, evaluation_batches
from raykd.distributed.world import World
from raykd.errors import RaykdError
from raykd.spec import DataSpec

CLASSES, TILE = 8, 64
WIDTH, HEIGHT = 8 * TILE, 6 * TILE  # 512 by 384; the mean of ImageNet's is about 470 by 390
BYTES = 110_000  # of a file, about ImageNet's mean


def photos() -> np.ndarray:
    """Return tiles (N, 64, 64, 3) of real photos, or smooth noise where there are none."""
    with suppress(RaykdError):
        root = Path(os.environ.get("RAYKD_DATA", "none"))
        return (
            load_images("tiny-imagenet-50", "test", data_spec("tiny-imagenet-50"), root)
            .pixels.numpy()
            .transpose(0, 2, 3, 1)
        )
    coarse = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(tile).resize((TILE, TILE))) for tile in coarse])


def encode(image: Image.Image, quality: int) -> bytes:
    """Return an image as JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def write(folder: Path, count: int) -> float:
    """Write train/WNID/* and val/WNID/*, and return the mean bytes of a file."""
    tiles, rng, sizes = photos(), np.random.default_rng(1), []

    def mosaic() -> Image.Image:
        chosen = tiles[rng.integers(0, len(tiles), 48)].reshape(6, 8, TILE, TILE, 3)
        return Image.fromarray(chosen.transpose(0, 2, 1, 3, 4).reshape(HEIGHT, WIDTH, 3))

    one = mosaic()
    quality = min(range(50, 99), key=lambda q: abs(len(encode(one, q)) - BYTES))
    for split in ("train", "val"):
        for number in range(count):
            path = folder / split / all_wnids()[number % CLASSES] / f"{number}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            sizes.append(path.write_bytes(encode(mosaic(), quality)))
    return sum(sizes) / len(sizes)


def torchvision_batches(folder: Path, batch: int, spec: DataSpec, *, train: bool) -> Iterator[torch.Tensor]:
    """Yield batches as torchvision's reference scripts make them."""
    cut: list[Callable[..., object]] = [transforms.Resize(256), transforms.CenterCrop(224)]
    if train:
        cut = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
    steps = transforms.Compose([*cut, transforms.ToTensor(), transforms.Normalize(spec.mean, spec.std)])
    images = datasets.ImageFolder(str(folder / ("train" if train else "val")), steps)
    for pixels, _ in DataLoader(images, batch, shuffle=train, num_workers=1):
        yield pixels


def raykd_train(root: Path, batch: int, spec: DataSpec, count: int) -> tuple[Iterator[torch.Tensor], Callable[[], int]]:
    """Return a window's batches, and what waits for the window that is read ahead and returns how many were decoded."""
    files = parquet.find_files(root / "some", "train")
    images = StreamedImages(
        "some", files, spec, buffer=count, seed=0, global_batch=batch, share=slice(0, batch), random_crop=True
    )
    stream = TrainStream(images, spec, World.alone(), batch, 0, ["flip"])

    def finish() -> int:
        for window in list(images._windows.values()):
            window.result()
        return 2 * count

    return (stream.batch(step).images for step in range(count // batch)), finish


def cpu() -> float:
    """Return the processor's seconds of this process, its threads, and the processes that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def measure(way: str, folder: Path, root: Path, batch: int, count: int) -> float:
    """Return how many images a second one core brings to the network's input."""
    spec = data_spec("some", data_root=root)
    began, images = cpu(), count
    if way.startswith("torchvision"):
        for _ in torchvision_batches(folder, batch, spec, train=way.endswith("train")):
            pass
    elif way == "raykd, train":
        batches, finish = raykd_train(root, batch, spec, count)
        for _ in batches:
            pass
        images = finish()
    else:
        stored = StoredImages(parquet.find_files(root / "some", "test"), spec)
        for _ in evaluation_batches(stored, spec, World.alone(), batch):
            pass
    return images / (cpu() - began)


WAYS = ("torchvision, train", "raykd, train", "torchvision, evaluation", "raykd, evaluation")


def main() -> None:
    """Measure, alternating, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder, root = Path(place) / "source", Path(place)
        size = write(folder, given.images)
        (root / "some.txt").write_text("\n".join(all_wnids()[:CLASSES]))
        began = cpu()
        convert("imagenet", folder, root, class_list=root / "some.txt")
        converted = 2 * given.images / (cpu() - began)
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(given.rounds):
            for way, rates in found.items():
                rates.append(measure(way, folder, root, given.batch, given.images))
    if given.json:
        print(json.dumps({"bytes": size, "converted": converted, **found}))
        return
    print(f"{WIDTH}x{HEIGHT} JPEGs of {size / 1000:.0f} KB; conversion {converted:,.0f} images/s a core\n")
    print("| way | images/s a core | least | most |\n|---|---|---|---|")
    for way, rates in found.items():
        print(f"| {way} | {median(rates):,.0f} | {min(rates):,.0f} | {max(rates):,.0f} |")


if __name__ == "__main__":
    main()

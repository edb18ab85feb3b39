"""Build the folder that a machine with a GPU is given: ``python benchmarks/gpu/kit.py [--out build/gpu-kit]``.

Everything that machine lacks and needs for `run.py`, at most 60 MiB: raykd's wheel, wheels for its Python, the test
split of CIFAR-10 and the teacher, tests and benchmarks that steps use. It is taken to have torch and torchvision, and
what comes with these or is common beside them (``THERE``); neither Ray nor scikit-learn nor a network.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 60 * 2**20
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64")
THERE = {
    "click", "filelock", "fsspec", "mpmath", "networkx", "numpy", "pillow", "pyarrow", "rich", "safetensors",
    "setuptools", "sympy", "torch", "torchvision", "triton", "pygments", "markdown-it-py", "mdurl",
}  # fmt: skip
LEFT_OUT = {"matplotlib", "scikit-learn", "scipy"}
"""Of charts, which are not drawn there, of digits, whose file is brought, and of ImageNet's kit: they are large."""

CODE = (
    "benchmarks/dafl", "benchmarks/lsgdfd", "benchmarks/gpu", "benchmarks/pool_step.py", "benchmarks/plan_accuracy.py",
    "tests/__init__.py", "tests/generators/plain.py", "tests/golden",
)  # fmt: skip
"""What steps use of a checkout, beside the package."""
DATA = ("cifar10/test-00000-of-00001.parquet",)
TEACHERS = ("teachers/cifar10_resnet20.safetensors",)
RECIPE = "fast_cifar10_resnet20"
"""Whose teacher it is: what it must still be able to do in half precision is measured on its test split."""
MOST_LOST = 0.02  # points of top-1


def lacking(package: str, there: Iterable[str], left_out: Iterable[str], python: str = PYTHON) -> dict[str, str]:
    """Return name and installed version of what ``package`` needs with a Python, directly or not, and is not there."""
    environment = {"extra": "", "python_version": python, "python_full_version": f"{python}.0"}
    known, found, queue = {canonical(name) for name in (*there, *left_out)}, dict[str, str](), [package]
    while queue:
        for text in metadata.requires(queue.pop()) or ():
            requirement = Requirement(text)
            name = canonical(requirement.name)
            marker = requirement.marker
            if name in known or (marker and not marker.evaluate(environment)):
                continue
            known.add(name)
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                sys.exit(f"{name}, which {package} needs with Python {python}, is not installed here: install it first")
            queue.append(name)
    return found


def canonical(name: str) -> str:
    """Return a package's name as indexes spell it."""
    return name.lower().replace("_", "-")


def fetch_wheels(folder: Path, packages: dict[str, str], python: str) -> None:
    """Download wheels for another machine's Python, by pip, and build raykd's own."""
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    exact = [f"{name}=={version}" for name, version in packages.items()]
    options = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp", *platforms]
    pip("download", "--no-deps", *options, "-d", str(folder), *exact)
    pip("wheel", "--no-deps", "-w", str(folder), str(ROOT))


def pip(*words: str) -> None:
    """Run pip; end with its last line where it fails."""
    done = subprocess.run([sys.executable, "-m", "pip", *words, "-q"], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"pip {words[0]} failed: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")


def copy_code(folder: Path) -> None:
    """Copy what steps use of the checkout, and the digits of scikit-learn."""
    for name in CODE:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            shutil.copyfile(source, target)
    import sklearn.datasets

    digits = Path(sklearn.datasets.__file__).parent / "data" / "digits.csv.gz"
    shutil.copyfile(digits, folder / "benchmarks" / "gpu" / digits.name)


def copy_data(source: Path, folder: Path) -> dict[str, str]:
    """Copy the test split as it is, which is lossless, and each teacher in half precision where that loses nothing.

    Returns:
        What was done with each teacher, in words.
    """
    for name in DATA:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target)
    return {name: copy_teacher(source, folder, name) for name in TEACHERS}


def copy_teacher(source: Path, folder: Path, name: str) -> str:
    """Write a teacher in half precision; in its own where it then answers the test split otherwise."""
    from safetensors.torch import load_file, save_file

    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    weights = load_file(source / name)
    save_file({key: value.half() if value.is_floating_point() else value for key, value in weights.items()}, target)
    before, after = top1(source, source / name), top1(source, target)
    if before - after <= MOST_LOST:
        return f"half precision: {after:.2f} (float32: {before:.2f})"
    shutil.copyfile(source / name, target)
    return f"float32: {before:.2f} (half precision would have {after:.2f})"


def top1(data: Path, weights: Path) -> float:
    """Return a teacher's accuracy on the test split, in per cent."""
    from raykd.data.datasets import load_images
    from raykd.distributed.world import World
    from raykd.engine.build import build_spec, load_teacher
    from raykd.engine.evaluator import Evaluator
    from raykd.recipe.experiment import resolve
    from raykd.recipe.recipe import load_recipe
    from raykd.store.workspace import Workspace

    recipe = load_recipe(RECIPE, [f"teacher.weights={weights.absolute()}"])
    workspace = Workspace(data, data)
    spec = build_spec(recipe.data, workspace)
    teacher, _ = load_teacher(resolve(recipe), spec, workspace)
    images = load_images(recipe.data.name, "test", spec, data)
    return float(Evaluator(images, spec, World.alone(), None).score(teacher)["accuracy/top1"])


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check_size(folder: Path, limit: int = LIMIT) -> str:
    """Return the size in words, by part.

    Raises:
        SystemExit: if it is over the limit.
    """
    parts = {path.name: size_of(path) if path.is_dir() else path.stat().st_size for path in sorted(folder.iterdir())}
    told = ", ".join(f"{name} {size / 2**20:.1f}" for name, size in parts.items())
    whole = sum(parts.values())
    if whole > limit:
        sys.exit(f"{folder}: {whole / 2**20:.1f} MiB, {limit / 2**20:.0f} may be carried ({told}): leave something out")
    return f"{folder}: {whole / 2**20:.1f} of {limit / 2**20:.0f} MiB ({told})"


def commit() -> str:
    """Return the checkout's commit, marked where files differ from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def main() -> None:
    """Build the kit and print its size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-kit")
    parser.add_argument("--python", default=PYTHON, help=f"of that machine (default {PYTHON})")
    arguments = parser.parse_args()
    data = os.environ.get("RAYKD_DATA")
    if not data:
        sys.exit("RAYKD_DATA is not set: it names the folder with cifar10 and teachers")
    folder: Path = arguments.out
    shutil.rmtree(folder, ignore_errors=True)
    packages = lacking("raykd", THERE, LEFT_OUT, arguments.python)
    fetch_wheels(folder / "wheels", packages, arguments.python)
    copy_code(folder / "code")
    teachers = copy_data(Path(data), folder / "data")
    shutil.copyfile(Path(__file__).with_name("run.py"), folder / "run.py")
    about = {"commit": commit(), "python": arguments.python, "packages": packages, "teachers": teachers}
    (folder / "kit.json").write_text(json.dumps(about, indent=1) + "\n")
    for name, what in teachers.items():
        print(f"{name}: {what}")
    print(check_size(folder))


if __name__ == "__main__":
    main()

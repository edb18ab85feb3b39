"""Packages as pip leaves them: modules on the path, and the metadata in which a method's entry point stands."""

from collections.abc import Mapping
from pathlib import Path


def install(site: Path, package: str, sources: Mapping[str, str], methods: Mapping[str, str]) -> None:
    """Write modules by name, and ``methods``, the entry points, as in {"mine": "module:Class"}."""
    metadata = site / f"{package}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {target}" for name, target in methods.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[raykd.methods]", *lines, ""]))
    for name, source in sources.items():
        (site / f"{name}.py").write_text(source)

"""Read the import graph of the package from its syntax trees, function bodies included."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "raykd"

# Bottom-up. A module may import modules of the rows above its own and of its own package;
# two entries of one row are siblings and do not import each other. The longest prefix wins.
ROWS: tuple[tuple[str, ...], ...] = (
    ("raykd", "raykd.errors", "raykd.surroundings"),
    ("raykd.config", "raykd.files", "raykd.results"),
    ("raykd.distributed", "raykd.losses", "raykd.tensors"),
    ("raykd.spec",),
    ("raykd.models", "raykd.generators", "raykd.data"),
    ("raykd.methods",),
    ("raykd.recipe", "raykd.recipes", "raykd.tables"),
    ("raykd.store",),
    ("raykd.artifacts", "raykd.tracking"),
    ("raykd.engine", "raykd.cluster.config"),
    ("raykd.search", "raykd.tasks", "raykd.reporting", "raykd.cluster.workers"),
    ("raykd.planning",),
    ("raykd.cluster",),
    ("raykd.runners",),
    ("raykd.api", "raykd.distillation"),
    ("raykd.cli",),
    ("raykd.__main__",),
)
# ``raykd.train`` and the other verbs are the package's own names for those of these modules, which it imports when one
# is used; nothing below may.
DOORS = (("raykd", "raykd.api"), ("raykd", "raykd.distillation"))
ON_RAY = ("raykd.cluster", "raykd.runners.ray")
ROW_OF = {entry: row for row, entries in enumerate(ROWS) for entry in entries}


def sources(folder: Path = ROOT / PACKAGE) -> list[Path]:
    """Every Python file under ``folder``, sorted."""
    return sorted(folder.rglob("*.py"))


def module_name(path: Path, root: Path = ROOT) -> str:
    """Dotted name of a file: ``raykd/data/__init__.py`` is ``raykd.data``."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def entry_of(module: str) -> str | None:
    """The longest entry of the table that is ``module`` or a package around it."""
    parts = module.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    entry = next((prefix for prefix in prefixes if prefix in ROW_OF), None)
    # The bare package is an entry for its own __init__ only, not for every file without a row.
    return None if entry == PACKAGE != module else entry


def imported(path: Path, modules: frozenset[str] = frozenset()) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a file imports, wherever in the file.

    ``from package import name`` counts as ``package.name`` where that is one of ``modules``.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield node.lineno, full if full in modules else base
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func).split(".")[-1]
            first = node.args[0] if node.args else None
            if (
                called in ("import_module", "__import__")
                and isinstance(first, ast.Constant)
                and isinstance(first.value, str)
            ):
                yield node.lineno, first.value


def violations(path: Path, root: Path = ROOT) -> list[str]:
    """What a file imports against the table, one line each; empty where all is well."""
    modules = frozenset(module_name(file, root) for file in sources(root / PACKAGE))
    module = module_name(path, root)
    own = entry_of(module)
    if own is None:
        return [f"{module} has no row in the table of layers: give it one, or another place"]
    found = []
    for line, target in imported(path, modules):
        where = f"{path.relative_to(root)}:{line}"
        if target.startswith("."):
            found.append(f"{where} imports {target}: imports are absolute here")
        if target.split(".")[0] == "ray" and not module.startswith(ON_RAY):
            found.append(f"{where} imports {target}: only {' and '.join(ON_RAY)} may")
        if target.split(".")[0] != PACKAGE:
            continue
        if (module, target) in DOORS:
            continue
        other = entry_of(target)
        if other is None:
            found.append(f"{where} imports {target}, which has no row in the table of layers")
        elif other != own and ROW_OF[other] >= ROW_OF[own]:
            relation = "beside" if ROW_OF[other] == ROW_OF[own] else "above"
            found.append(f"{where}: {module} imports {target}, which stands {relation} it")
    return found

"""Find a file by name or path: recipes, tables, clusters and search spaces are found alike."""

import os
from dataclasses import dataclass
from pathlib import Path

import raykd
from raykd.errors import UsageError, unknown

SCHEMA_LINE = "# yaml-language-server: $schema="
"""How the line begins that names the schema of a file for editors; in packaged files it is the first."""
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Catalog:
    """The files of one kind that have names.

    Attributes:
        kind: what a message calls one, as in ``search space``.
        folder: the folder of the packaged ones, in the package.
        listing: the word after ``raykd list`` that shows all names.
        extensible: whether a user's own ``./<folder>`` counts too, and comes first.
    """

    kind: str
    folder: str
    listing: str
    extensible: bool = False

    def files(self) -> dict[str, Path]:
        """Find the files that have names, from here."""
        package = Path(raykd.__file__).parent
        folders = [package / self.folder]
        if self.extensible:
            # A wheel carries these files inside the package, a checkout beside it.
            folders = [package.parent / self.folder, *folders, Path(self.folder)]
        return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}

    def find(self, source: str) -> Path:
        """Find a file by its name, or by its path: that has a "/" or a YAML file's ending.

        Raises:
            UsageError: if there is none, naming the nearest match.
        """
        if "/" in source or source.endswith(_SUFFIXES):
            if not os.path.isfile(source):  # unlike Path's, without an error where no file system has such names
                which = "named" if self.extensible else "packaged"
                inside = os.path.join(source, f"{self.kind}.yaml")  # as in the directory of a run
                hint = f"did you mean {inside!r}? " if os.path.isfile(inside) else ""
                raise UsageError(
                    f"no {self.kind} file {source!r}; {hint}`raykd list {self.listing}` shows the {which} ones"
                )
            return Path(source)
        files = self.files()
        if source not in files:
            raise unknown(self.kind, source, files)
        return files[source]


RECIPES = Catalog("recipe", folder="recipes", listing="recipes")
TABLES = Catalog("table", folder="tables", listing="tables")
SPACES = Catalog("search space", folder="search_spaces", listing="spaces", extensible=True)
CLUSTERS = Catalog("cluster", folder="clusters", listing="clusters", extensible=True)

"""Write the golden curves anew: all, or those of the recipes named as arguments."""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from raykd.cli.names import packaged_recipes
from tests.golden.curves import FOLDER, measure, path_of


def regenerate(names: list[str]) -> None:
    """Write the curves of ``names``, or of every packaged recipe; drop those of recipes that are gone."""
    for path in FOLDER.glob("*.json"):
        if path.stem not in packaged_recipes():
            path.unlink()
    with TemporaryDirectory() as folder:
        for name in names or packaged_recipes():
            path_of(name).write_text(json.dumps(measure(name, Path(folder)), indent=1) + "\n")


if __name__ == "__main__":
    regenerate(sys.argv[1:])

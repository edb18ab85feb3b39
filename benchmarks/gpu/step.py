"""One step in a process of its own: ``python -m gpu.step NAME DEVICE SECONDS RESULT FOLDER``."""

import logging
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from gpu.digits import lend_digits
from gpu.parts import Parts
from gpu.plan import STEPS
from gpu.site import Site


def main() -> None:
    """Run the parts of a step that its result lacks."""
    name, device, seconds, file, folder = sys.argv[1:]
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    lend_digits(Path(__file__).parent)
    module, _, function = STEPS[name].code.partition(":")
    action: Callable[[Parts, Site], None] = getattr(import_module(module), function)
    site = Site("cuda:0" if device == "cuda" else device, Path(folder))
    parts = Parts(Path(file), float(seconds), {"step": name, "device": device, "small": site.small})
    action(parts, site)
    parts.close()


if __name__ == "__main__":
    main()

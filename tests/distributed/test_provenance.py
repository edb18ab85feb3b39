"""What a run tells of its machine: versions and hardware, ready for JSON."""

import json
import re
from dataclasses import replace

import torch

from raykd.distributed.provenance import describe
from raykd.distributed.world import World


def test_versions_and_workers_are_told_as_plain_data() -> None:
    told = describe(replace(World.alone(), size=3))
    assert json.loads(json.dumps(told)) == told
    assert torch.__version__.startswith(told["packages"]["torch"])  # the build, as +cpu, may be left out
    assert (told["workers"], told["gpu"]) == (3, None)
    assert told["git"] is None or re.fullmatch(r"[0-9a-f]{12}(\+changes)?", told["git"])

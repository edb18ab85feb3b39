"""The figures of finished runs."""

import json
import re

from tests.cli.conftest import Raykd, WriteRecipe


def test_controls_stand_in_the_table(raykd: Raykd, tiny: WriteRecipe) -> None:
    from raykd.cli.summary import print_summary
    from raykd.reporting.seeds import over_seeds
    from raykd.results import RunResult

    result = json.loads(raykd("train", tiny(), "--json").stdout)
    control = {**result, "blind": {**result["blind"], "accuracy/top1": 33.25}}
    both = RunResult.from_dict({**result, "controls": {"beside": control}})
    from click.testing import CliRunner

    with CliRunner().isolation() as (out, *_):
        print_summary(over_seeds([both]))
        shown = out.getvalue().decode()
    assert re.search(r"control beside .*33\.25", shown)

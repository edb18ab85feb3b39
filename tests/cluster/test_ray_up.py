"""Files of ray up that Ray itself takes."""

import pytest

from raykd.cluster.launcher import read_launcher


@pytest.mark.parametrize("name", ["aws", "gcp", "ssh"])
def test_ray_itself_takes_what_is_shipped(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(read_launcher(name).content))

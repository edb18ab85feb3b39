"""A recipe with comments reads back as it was."""

from pathlib import Path

from raykd.config.yaml_file import load_yaml
from raykd.recipe.commented import write_commented


def test_content_is_read_back_and_each_field_has_its_comment(tmp_path: Path) -> None:
    content = {
        "data": {"name": "1e5", "mean": [0.5, 1e-9], "test": False, "none": None, "text": "a: b # c"},
        "method": {"name": "x", "deep": {"lr": 2e-3, "inner": {"on": True}}},
        "empty": {},
        "list": ["a, b", "no"],
        "seed": 0,
    }
    comments = {"data": "whole", "data.mean": "long " * 60, "method.name": "two\nlines\x1b", "seed": "of all"}
    text = write_commented(content, comments, "first\nsecond: # {}")
    file = tmp_path / "x.yaml"
    file.write_text(text)
    assert load_yaml(file) == content
    lines = text.splitlines()
    assert lines[:2] == ["# first", "# second: # {}"]
    assert "  name: x  # two lines\\x1b" in lines
    assert "seed: 0  # of all" in lines
    assert lines[lines.index("data:") - 1] == "# whole"
    assert lines[lines.index("  mean: [0.5, 1.0e-09]") - 1].startswith("  # long long")
    assert max(map(len, lines)) <= 120

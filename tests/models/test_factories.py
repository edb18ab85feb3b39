"""Architectures from a user's module: where it is looked for, how it is called, what is refused."""

import logging
import sys
from pathlib import Path

import pytest
from torch import nn

from raykd.errors import UsageError
from raykd.models.factories import load_factory, module_file
from tests.models import strangers


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current directory, under a name no other test uses."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(
        "from torch import nn\n"
        "LIMIT = 3\n"
        "def build(num_classes):\n"
        "    import own_sibling\n"
        "    return nn.Linear(own_sibling.WIDTH, num_classes)\n"
        "def build_number():\n"
        "    return 3\n"
        "class Net(nn.Linear):\n"
        "    pass\n"
    )
    (tmp_path / "own_sibling.py").write_text("WIDTH = 2\n")
    (tmp_path / "own_broken.py").write_text("1 / 0\n")
    (tmp_path / "own_needy.py").write_text("import absent_package\n")
    monkeypatch.chdir(tmp_path)
    return name


def test_a_factory_in_the_current_directory_is_called(own_code: str) -> None:
    before = list(sys.path)
    built = load_factory(f"{own_code}:build", num_classes=4)
    assert isinstance(built, nn.Linear) and built.weight.shape == (4, 2)
    assert isinstance(load_factory(f"{own_code}:build", num_classes=4, size=32), nn.Linear), (
        "takes what it has names for"
    )
    assert isinstance(load_factory(f"{own_code}:Net", in_features=1, out_features=2), nn.Linear)
    assert sys.path == before


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_colon", "must be 'module:function', got 'no_colon'"),
        ("absent_module:build", "no module 'absent_module' for the factory, neither on sys.path nor in"),
        ("absent_module.py:build", "did you mean 'absent_module'"),
        ("./nets/absent.py:build", "did you mean 'nets.absent'"),
        ("{own}:biuld", "\\.py\\) has no function 'biuld'; did you mean 'build'"),
        ("{own}:LIMIT", "has no function 'LIMIT'"),
        ("{own}:build_number", "returned a int; it must return an nn.Module"),
        ("{own}:build", "cannot be called with .*missing a required argument: 'num_classes'"),
        ("own_broken:build", "importing .* failed: ZeroDivisionError"),
        ("own_needy:build", "needs 'absent_package'"),
    ],
)
def test_unusable_factories_are_refused(own_code: str, target: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_factory(target.format(own=own_code))


def test_a_module_that_was_imported_before_finds_what_lies_beside_it(own_code: str, tmp_path: Path) -> None:
    assert isinstance(load_factory(f"{own_code}:Net", in_features=1, out_features=2), nn.Linear)
    sys.modules.pop("own_sibling", None)
    assert isinstance(load_factory(f"{own_code}:build", num_classes=4), nn.Linear), (
        "which imports one when it is called"
    )


def test_the_module_is_found_without_importing_anything(own_code: str, tmp_path: Path) -> None:
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "nets.py").touch()
    assert module_file("own_package.nets:build") == str(package / "nets.py")
    assert module_file("own_package.absent:build") is None
    assert module_file("own_broken:build") == str(tmp_path / "own_broken.py")
    assert module_file("absent_module:build") is None
    assert "own_package" not in sys.modules


def test_what_is_installed_comes_before_what_lies_here(own_code: str, tmp_path: Path) -> None:
    for name in ("torchvision", "numpy", "own_only"):
        (tmp_path / f"{name}.py").write_text("from torch import nn\nimport numpy, torchvision\nbuild = nn.Identity\n")
    (tmp_path / "torchvision.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong one')")
    assert module_file("torchvision.models:resnet18") != str(tmp_path / "torchvision.py")
    load_factory("torchvision.models:resnet18")
    load_factory("own_only:build")


def test_a_module_called_like_the_librarys_is_the_users(
    own_code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "antigravity", raising=False)
    own = tmp_path / "antigravity.py"
    own.write_text("from torch import nn\nbuild = nn.Identity\n")
    assert module_file("antigravity:build") == str(own)
    caplog.set_level(logging.INFO)
    assert isinstance(load_factory("antigravity:build"), nn.Identity)
    assert f"factory module antigravity: loaded from {own}" in caplog.text
    monkeypatch.delitem(sys.modules, "antigravity")


def test_factories_are_called_with_their_arguments() -> None:
    module = strangers.__name__
    assert isinstance(load_factory(f"{module}:build", {"kind": "ByView"}, num_classes=3), strangers.ByView)
    wide = load_factory(f"{module}:Flattens", None, num_classes=5, channels=1)
    assert wide.get_parameter("fc.weight").shape[0] == 5
    own = load_factory(f"{module}:Flattens", {"num_classes": 7}, num_classes=5)
    assert own.get_parameter("fc.weight").shape[0] == 7, "what is said counts"
    with pytest.raises(UsageError, match=r"missing a required argument: 'kind'; set 'factory_args'.*build\(kind"):
        load_factory(f"{module}:build", None, num_classes=3)
    with pytest.raises(UsageError, match="unexpected keyword argument 'depth'"):
        load_factory(f"{module}:Flattens", {"depth": 7})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("exit", "failed: SystemExit: 0"),
        ("package", "failed: ModuleNotFoundError: No module named 'a_package_that_is_not_there'"),
        ("gpu", "failed: RuntimeError: no GPU is here$"),
    ],
)
def test_a_factory_that_fails_is_named_with_its_reason(kind: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"^factory {strangers.__name__}:raising {message}"):
        load_factory(f"{strangers.__name__}:raising", {"kind": kind})

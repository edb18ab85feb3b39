"""A recipe for a teacher of the user's own: with comments, and trained as it is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch.nn import functional

from raykd.data.datasets import data_spec, load_images
from raykd.data.streams import evaluation_batches
from raykd.distributed.world import World
from raykd.models import build_model
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import load_recipe
from tests.cli.conftest import Raykd

SMALL = [
    "schedule.steps=2", "schedule.report_every=1", "schedule.global_batch=8", "method.warmup_calls=1",
    "method.student_steps=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeNet-5 with BatchNorm that has seen digits normalised by 0.5 and 0.5, as raykd's own are not."""
    torch.manual_seed(0)
    network = build_model("lenet5_bn", num_classes=10, channels=1, size=32)
    spec = data_spec("digits", mean=(0.5,), std=(0.5,))
    images = load_images("digits", "train", spec, None)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(2):
        for batch in evaluation_batches(images, spec, World.alone(), 64):
            optimizer.zero_grad()
            functional.cross_entropy(network(batch.images), batch.labels).backward()
            optimizer.step()
    path = tmp_path_factory.mktemp("trained") / "seen half.safetensors"
    save_file(network.state_dict(), path)
    return path


def init(raykd: Raykd, *arguments: str) -> dict[str, Any]:
    done = raykd("init", *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_weights_alone_make_a_recipe_that_trains(raykd: Raykd, trained: Path) -> None:
    told = init(raykd, "--teacher", str(trained), "--data", "digits", *SMALL)
    assert told["recipe"] == "seen_half_pool_inversion.yaml"
    assert told["next"][1] == f"raykd train {told['recipe']}"
    text = Path(told["recipe"]).read_text()
    assert told["teacher's top-1"].endswith(" % on digits, on test images that it may have been trained on")
    assert told["budget"] == "2 steps of 8", "how long another took tells nothing of it"
    recipe = load_recipe(told["recipe"])
    assert recipe.teacher is not None
    assert recipe.student is not None
    assert (recipe.teacher.model, recipe.student.model) == ("lenet5_bn", "lenet5_half")
    assert (recipe.data.mean, recipe.data.std) == ((0.5,), (0.5,)), "which fit its test images best"
    assert "0.5 and 0.5, compared on 359 test images" in text
    for section in yaml.safe_load(text).values():
        assert isinstance(section, dict), "a line for each field"
    fields = [line for line in text.splitlines() if line.startswith("  ") and not line.strip().startswith("#")]
    before = dict(zip(text.splitlines()[1:], text.splitlines(), strict=False))
    assert [line for line in fields if "  # " not in line and not before[line].strip().startswith("#")] == []
    result = raykd("train", told["recipe"], "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["teacher/accuracy/top1"] > 60


def test_a_recipe_says_why_this_student_and_how_long_its_budget_took(raykd: Raykd, trained: Path) -> None:
    told = init(raykd, "--teacher", str(trained), "--data", "digits")
    assert told["budget"] == "60 steps of 128, which took three to five minutes on one core from LeNet-5"
    text = " ".join(Path(told["recipe"]).read_text().replace("#", "").split())
    assert "the largest of lenet5_bn, lenet5, lenet5_half with at most 60% of the teacher's parameters" in text
    assert "factory: MODULE:FUNCTION and factory_args: {width: 8}" in text
    assert (
        f"which took three to five minutes on one core from LeNet-5; what it takes here: raykd plan {told['recipe']}"
        in text
    )
    assert "on test images that it may have been trained on: is that what you know?" in text


def test_nothing_is_overwritten(raykd: Raykd, trained: Path) -> None:
    Path("mine.yaml").write_text("mine\n")
    done = raykd("init", "--teacher", str(trained), "--data", "digits", "--out", "mine.yaml")
    assert done.exit_code == 2
    assert "mine.yaml is there already, and nothing is overwritten" in done.stderr
    assert Path("mine.yaml").read_text() == "mine\n"
    Path("seen_half_pool_inversion.yaml").write_text("mine\n")
    again = raykd("init", "--teacher", str(trained), "--data", "digits")
    assert (again.exit_code, Path("seen_half_pool_inversion.yaml").read_text()) == (2, "mine\n")


def test_a_teacher_without_batch_norm_gets_another_method(raykd: Raykd, teacher: Path) -> None:
    init(raykd, "--teacher", teacher.name, "--data", "digits", "--out", "sub/other.yaml", "data.mean=[0.1]")
    recipe = load_recipe("sub/other.yaml")
    assert (recipe.name, recipe.method.name, recipe.data.mean) == ("other", "dafl", (0.1,))
    assert recipe.teacher is not None
    text = Path("sub/other.yaml").read_text()
    assert f"weights: {teacher}" in text, "to be found from there"
    assert "as given" in text


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("kd", []), ("dafl", []), ("adversarial", []), ("lsgdfd", []), ("lsgdfd_single", []), ("noise", []),
        ("pixel_inversion", []), ("blind_kd", ["data.ood=usps"]), ("mosaickd", ["data.ood=usps"]),
        ("bank_kd", ["bank={run: a-run}"]), ("tfkd_self", []),
    ],
)  # fmt: skip
def test_every_method_that_has_a_teacher_can_be_asked_for(
    raykd: Raykd, trained: Path, method: str, more: list[str]
) -> None:
    told = init(raykd, "--teacher", str(trained), "--data", "digits", "--method", method, "--out", "x.yaml", *more)
    assert told["method"] == f"{method}: as asked for"
    assert load_recipe("x.yaml").method.name == method


def test_a_described_teacher_of_ones_own_code(raykd: Raykd) -> None:
    Path("mine.py").write_text(
        "from raykd.models import build_model\n\n"
        "def net(num_classes):\n    return build_model('wrn_16_1', num_classes=num_classes, channels=3, size=32)\n"
    )
    save_file(build_model("wrn_16_1", num_classes=7, channels=3, size=32).state_dict(), "w.safetensors")
    described = ["data.num_classes=7", "data.channels=3", "data.size=32", "data.test=false"]
    own = ["--teacher", "w.safetensors", "--data", "own", "teacher.factory=mine:net", "teacher.model=null", *described]
    told = init(raykd, *own)
    recipe = load_recipe(told["recipe"])
    assert recipe.teacher is not None
    assert recipe.student is not None
    assert (recipe.teacher.factory, recipe.student.model, recipe.data.test) == ("mine:net", "wrn_10_1", False)
    assert "nobody has said them" in Path(told["recipe"]).read_text() or "remembers" in Path(told["recipe"]).read_text()


def test_a_file_of_data_and_teacher_is_one_too(raykd: Raykd, teacher: Path) -> None:
    Path("t.yaml").write_text(
        f"data: {{name: digits, size: 32}}\nteacher: {{model: lenet5, weights: {teacher.name}}}\n"
    )
    told = init(raykd, "--teacher", "t.yaml")
    recipe = load_recipe(told["recipe"])
    assert recipe.teacher is not None
    assert (recipe.teacher.model, recipe.teacher.weights, recipe.data.name) == ("lenet5", teacher.name, "digits")


def test_a_student_of_ones_own_is_taken(raykd: Raykd, trained: Path) -> None:
    Path("mine.py").write_text("from raykd.models import build_model\n\ndef net():\n    return None\n")
    own = ["--teacher", str(trained), "--data", "digits"]
    told = init(raykd, *own, "student.factory=mine:net", "--out", "with space/a.yaml")
    recipe = load_recipe("with space/a.yaml")
    assert recipe.student is not None
    assert (recipe.student.factory, recipe.student.model, told["student"]) == ("mine:net", None, "mine:net")
    assert told["next"][1] == "raykd train 'with space/a.yaml'"
    init(raykd, *own, "student.model=lenet5", "--out", "b.yaml")
    named = load_recipe("b.yaml").student
    assert named is not None
    assert named.model == "lenet5"


def test_the_teacher_of_a_recipe_is_the_one_that_was_looked_at(raykd: Raykd) -> None:
    sections = ("extends: supervised_digits_lenet5_bn", "schedule: {steps: 2, report_every: 2, global_batch: 8}")
    Path("own.yaml").write_text("\n".join(sections))
    assert raykd("train", "own.yaml", "data.mean=[0.2]").exit_code == 0
    init(raykd, "--teacher", "own.yaml", "--method", "kd", "--out", "a.yaml", "data.mean=[0.2]")
    assert "may have been trained on" not in Path("a.yaml").read_text(), (
        "raykd has trained it, and opened no test image"
    )
    recipe = load_recipe("a.yaml")
    source = resolve(recipe).teacher
    assert source is not None
    assert recipe.data.mean == (0.2,)
    assert (Path("runs") / source.run_id).is_dir(), "not another one, which nobody has trained"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--teacher", "teacher.safetensors", "--data", "digits", "--out", "my.recipe"], "ends in .yaml"),
        (["--teacher", "teacher.safetensors", "--data", "digits", "schedule.epochs=3"], "a batch, not an epoch"),
        (
            ["--teacher", "teacher.safetensors"],
            "trained on? Say it by data.name=NAME",
        ),
        (["--teacher", "absent.safetensors", "--data", "digits"], "absent.safetensors"),
        (["--teacher", "teacher.safetensors", "--data", "digit"], "did you mean 'digits'"),
        (["--teacher", "teacher.safetensors", "--data", "digits", "--method", "dafll"], "did you mean 'dafl'"),
        (["--teacher", "teacher.safetensors", "--data", "digits", "--method", "supervised"], "learns from no teacher"),
        (["--teacher", "teacher.safetensors", "--data", "digits", "--method", "lsgdfd"], "cannot be used with this"),
        (["--teacher", "teacher.safetensors", "--data", "digits", "--method", "bank_kd"], "needs a 'bank' section"),
        (["--teacher", "teacher.safetensors", "--data", "digits", "lr=1"], "did you mean 'student_optim.lr'"),
        (["--teacher", "strange.safetensors", "--data", "digits"], "say which network it is by teacher.factory="),
    ],
)
def test_what_is_missing_is_told_in_a_line(raykd: Raykd, teacher: Path, arguments: list[str], says: str) -> None:
    save_file({"a.weight": torch.ones(10, 3)}, "strange.safetensors")
    done = raykd("init", *arguments)
    assert done.exit_code == 2
    assert says in done.stderr.splitlines()[-1]
    assert not list(Path().glob("*.yaml"))

"""A student that leaves raykd answers as before, in every format, without raykd; what would not is not left behind."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import raykd
from raykd.data.datasets import data_spec, load_images
from raykd.distributed.world import World
from raykd.engine.synthesis import open_source
from raykd.errors import CorruptError, RunFailed, UsageError
from raykd.files import read_json, sha256_of, write_json
from raykd.models import MODELS, build_model, in_memory, permission
from raykd.models.image_classifier import ImageClassifier
from raykd.results import FORMATS
from raykd.spec import DataSpec
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace
from raykd.tasks import export_formats
from raykd.tasks.export_card import predict_program
from raykd.tasks.export_formats import write_onnx
from raykd.tasks.export_images import RunImages
from raykd.tensors import checksum_metadata, read_tensors
from tests.test_api import SHORT, network, pair

OPTIM = {"name": "adam", "lr": 1e-3}
BUDGET = {"steps": 4, "report_every": 2, "global_batch": 8}
HOSTILE = ("line\nbreak", "'''\"\"\"; import os #", "<script>|**x**|</script>", "\x1b[2J\u202ename", "[a](http://b)")
FACTORY = """
import torch
from pathlib import Path
from torch import nn

class Viewing(nn.Module):
    '''Needs the contiguous layout, and returns more than its logits.'''

    def __init__(self, num_classes, channels, size, width=4):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1, stride=2)
        self.linear = nn.Linear(width * (size // 2) ** 2, num_classes)

    def forward(self, images):
        maps = self.first(images).relu()
        return {"maps": maps, "main": self.linear(maps.view(maps.shape[0], -1))}

class TwoFaced(Viewing):
    def forward(self, images):
        return {"main": super().forward(images)["main"] + (1 if torch.compiler.is_compiling() else 0)}

class Branching(Viewing):
    def forward(self, images):
        logits = super().forward(images)["main"]
        return {"main": logits * 2 if float(logits.detach().mean()) > 100 else logits}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of a few steps: of digits with their images, and without any of images of three channels."""
    folder = tmp_path_factory.mktemp("export")
    torch.manual_seed(0)
    for name, channels, size, classes in (("lenet5", 1, 32, 10), ("cifar_resnet8", 3, 16, 5)):
        teacher = build_model(name, num_classes=classes, channels=channels, size=size)
        save_file(teacher.state_dict(), folder / f"{name}.safetensors")
    made = {"name": "made", "num_classes": 5, "channels": 3, "size": 16, "pad": 2, "test": False}
    dafl = {"name": "dafl", "latent_dim": 8, "generator_width": 8, "generator_optim": OPTIM}
    recipes: dict[str, dict[str, Any]] = {
        "grey": {"data": "digits", "student": {"model": "lenet5_half"}, "method": {"name": "kd"}},
        "colour": {"data": made, "student": {"model": "cifar_resnet8"}, "method": dafl},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAYKD_DATA", raising=False)
        patch.chdir(folder)
        for name, recipe in recipes.items():
            model = "lenet5" if name == "grey" else "cifar_resnet8"
            recipe |= {"teacher": {"model": model, "weights": str(folder / f"{model}.safetensors")}}
            recipe |= {"student_optim": OPTIM, "schedule": BUDGET}
            Path(f"{name}.yaml").write_text(json.dumps(recipe))
            Path(str(raykd.train(f"{name}.yaml", progress=False).directory)).rename(f"runs/{name}-00000000-s0")
    colour = RunDirectory(folder / "runs/colour-00000000-s0")
    write_json(colour.path / "data.json", {**read_json(colour.path / "data.json", ""), "class_names": list(HOSTILE)})
    return folder / "runs"


@pytest.fixture
def grey(store: Path) -> Path:
    return store / "grey-00000000-s0"


@pytest.fixture
def colour(store: Path) -> Path:
    return store / "colour-00000000-s0"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYKD_DATA", raising=False)


pytestmark = pytest.mark.usefixtures("place")


def picture(folder: Path, size: tuple[int, int], mode: str) -> Path:
    """A picture of digits' first test image, or of noise."""
    if mode == "L":
        pixels = load_images("digits", "test", data_spec("digits"), None).pixels[0, 0].numpy()
    else:
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    return folder / "picture.png"


def predict(export: Path, image: Path, tmp_path: Path, without: tuple[str, ...], *more: str) -> list[tuple[float, str]]:
    """What predict.py prints in a process in which the packages ``without`` cannot be imported."""
    block = tmp_path / "block"
    block.mkdir(exist_ok=True)
    (block / "sitecustomize.py").write_text(f"import sys\nfor name in {without!r}:\n    sys.modules[name] = None\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(block), str(tmp_path)])}
    for name in without:
        attempt = [sys.executable, "-c", f"import {name}"]
        assert subprocess.run(attempt, env=environment, capture_output=True, check=False).returncode, f"{name} is there"
    command = [sys.executable, "-W", "error", str(export / "predict.py"), str(image), *more]
    done = subprocess.run(command, env=environment, cwd=block, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = (line.strip().partition("%  ") for line in done.stdout.splitlines())
    return [(float(share), eval(name)) for share, _, name in lines]


def answers(run: Path, image: Path) -> list[tuple[float, str]]:
    """What the student says itself of a picture of its size."""
    student = raykd.load(run)
    pixels = np.asarray(Image.open(image))
    (shares,) = student.classify(pixels[None]).probabilities
    return [(100 * float(shares[k]), student.spec.class_names[k]) for k in shares.argsort(descending=True)[:5]]


def assert_alike(found: list[tuple[float, str]], expected: list[tuple[float, str]]) -> None:
    assert [name for _, name in found] == [name for _, name in expected]
    assert [share for share, _ in found] == pytest.approx([share for share, _ in expected], abs=0.02)


def assert_nothing_left(folder: Path, *but: str) -> None:
    assert {path.name for path in folder.iterdir()} == set(but)


def test_onnx_and_its_eight_bits_answer_as_the_student(grey: Path, tmp_path: Path) -> None:
    made = raykd.export(grey, "out/digits", int8=True)
    assert (made.compared_on, made.images, made.model.same_answers) == ("digits/test", 359, 359)
    assert made.max_difference <= made.tolerance < 1e-2
    assert made.calibrated_on == "digits/train, 512 images"
    assert made.data_opened["test"] == ["digits/test"]
    assert made.int8 is not None and made.int8.bytes < made.model.bytes
    assert made.int8.same_answers > 300 and made.int8.latency_ms and made.model.latency_ms
    evaluated = raykd.evaluate(grey)
    assert made.model.top1 == pytest.approx(evaluated.student.top1)
    folder = tmp_path / "out/digits"
    assert_nothing_left(tmp_path / "out", "digits")
    assert_nothing_left(folder, "README.md", "labels.json", "predict.py", "student.onnx", "student.int8.onnx")
    student = raykd.load(grey)
    images = torch.randint(0, 256, (7, 1, 32, 32), dtype=torch.uint8)
    session = onnxruntime.InferenceSession(folder / "student.onnx")
    for count in (1, 2, 7):
        (logits,) = session.run(None, {"images": images[:count].numpy()})
        expected = student(student.spec.normalise(images[:count].float() / 255)).detach()
        assert torch.allclose(torch.from_numpy(logits), expected, atol=1e-5)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == list("0123456789")
    assert "uint8 [batch, 1, 32, 32]" in about["input"]
    model = onnx.load(folder / "student.onnx")
    assert [(one.domain, one.version) for one in model.opset_import] == [("", made.opset)]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert b".py" not in (folder / "student.onnx").read_bytes(), "no file of this machine"
    image = picture(tmp_path, (32, 32), "L")
    foreign = ("raykd", "torch", "torchvision")
    assert_alike(predict(folder, image, tmp_path, foreign), answers(grey, image))
    of_int8 = predict(folder, image, tmp_path, foreign, "student.int8.onnx")
    pixels = np.asarray(Image.open(image))
    (logits,) = onnxruntime.InferenceSession(folder / "student.int8.onnx").run(None, {"images": pixels[None, None]})
    shares = 100 * torch.from_numpy(logits)[0].softmax(0)
    assert_alike(of_int8, [(float(shares[k]), str(int(k))) for k in shares.argsort(descending=True)[:5]])
    assert torch.allclose(shares, 100 * student.classify(pixels[None]).probabilities[0], atol=2)
    card = (folder / "README.md").read_text()
    for words in ("lenet5\\_half", "digits/train", f"{evaluated.student.top1:.2f} % top-1", "license:", "opset 18"):
        assert words in card


def test_a_program_of_three_channels_is_compared_without_a_single_image_of_the_data(
    colour: Path, tmp_path: Path
) -> None:
    made = raykd.export(colour, "out", format="torch-export")
    assert made.compared_on == "synthetic images of colour-00000000-s0"
    assert (made.images, made.model.same_answers, made.model.top1) == (1024, 1024, None)
    assert not any(made.data_opened.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load("out/student.pt2").module()
    student = raykd.load(colour)
    for count in (1, 2, 7):
        images = torch.randint(0, 256, (count, 3, 12, 12), dtype=torch.uint8)
        shares = student.classify(images.float() / 255).probabilities
        assert torch.allclose(program(images).softmax(1).detach(), shares, atol=1e-5)
    image = picture(tmp_path, (12, 12), "RGB")
    assert_alike(predict(tmp_path / "out", image, tmp_path, ("raykd", "onnxruntime")), answers(colour, image))
    assert b".py" not in (tmp_path / "out/student.pt2").read_bytes(), "no file of this machine"


def test_names_of_classes_are_text_wherever_they_stand(colour: Path, tmp_path: Path) -> None:
    made = raykd.export(colour, "out", int8=True)
    assert made.argument == "IMAGE"
    assert made.calibrated_on == "synthetic images of colour-00000000-s0, 512 images"
    assert not any(made.data_opened.values()), "still data-free"
    assert json.loads(Path("out/labels.json").read_text()) == list(HOSTILE)
    about = onnxruntime.InferenceSession("out/student.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == list(HOSTILE)
    assert not any(name in Path("out/predict.py").read_text() for name in HOSTILE)
    card = Path("out/README.md").read_text()
    assert all(text not in card for text in ("<script>", "**x**", "\x1b", "\u202e", "[a](", "line\nbreak"))
    (classes,) = [line for line in card.splitlines() if line.startswith("| classes |")]
    for words in (r"line\\nbreak", r"import os \#", r"&lt;script&gt;\|\*\*x\*\*\|", r"\\x1b\[2J\\u202ename"):
        assert words in classes
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] is None and head["pipeline_tag"] == "image-classification"
    assert (head["library_name"], head["tags"]) == ("onnx", ["knowledge-distillation", "raykd"])
    assert "none: no image of the data was trained on" in card
    image = picture(tmp_path, (12, 12), "RGB")
    assert_alike(predict(tmp_path / "out", image, tmp_path, ("raykd", "torch")), answers(colour, image))


@pytest.mark.parametrize("form", ["safetensors", "state-dict"])
def test_weights_come_with_the_networks_own_source(form: str, colour: Path, tmp_path: Path) -> None:
    made = raykd.export(colour, "out", format=form)
    assert made.max_difference == 0
    assert yaml.safe_load(Path("out/README.md").read_text().split("---")[1])["library_name"] == "pytorch"
    assert not any(line.split()[1].startswith("raykd") for line in imports(Path("out/network.py")))
    image = picture(tmp_path, (12, 12), "RGB")
    assert_alike(predict(tmp_path / "out", image, tmp_path, ("raykd", "torchvision")), answers(colour, image))
    if form == "safetensors":
        again = raykd.load("out/student.safetensors", student="cifar_resnet8")
        assert again.spec.class_names == HOSTILE


def imports(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.startswith(("import ", "from "))]


def test_a_large_picture_is_scaled_turned_and_freed_of_transparency(grey: Path, tmp_path: Path) -> None:
    raykd.export(grey, "out")
    digit = Image.fromarray(load_images("digits", "test", data_spec("digits"), None).pixels[0, 0].numpy())
    digit.save("plain.png")
    wide = Image.new("L", (200, 96))
    wide.paste(digit.resize((96, 96), Image.Resampling.NEAREST), (52, 0))
    turned = wide.transpose(Image.Transpose.ROTATE_90).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned back by 90 degrees
    turned.save("large.png", exif=exif)
    plain = predict(tmp_path / "out", tmp_path / "plain.png", tmp_path, ("raykd", "torch"))
    large = predict(tmp_path / "out", tmp_path / "large.png", tmp_path, ("raykd", "torch"))
    assert_alike(sorted(large), sorted(plain))
    Image.new("RGBA", (32, 32), (0, 0, 0, 0)).save("glass.png")
    Image.new("L", (32, 32), 255).save("white.png")
    glass, white = (predict(tmp_path / "out", tmp_path / f"{n}.png", tmp_path, ("raykd",)) for n in ("glass", "white"))
    assert glass == white
    deep = np.asarray(digit).astype(np.uint16) * 257
    for name in ("deep.png", "deep.tif", "deep.pgm"):
        Image.fromarray(deep).save(name)
        assert predict(tmp_path / "out", tmp_path / name, tmp_path, ("raykd", "torch")) == plain
    for pixels in (deep.astype(np.float32), deep.astype(np.int32)):
        Image.fromarray(pixels).save("wide.tif")
        done = subprocess.run(
            [sys.executable, "out/predict.py", "wide.tif"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1 and done.stderr.startswith("wide.tif has pixels of mode ")
        assert done.stderr.count("\n") == 1
    Path("cut.png").write_bytes(Path("plain.png").read_bytes()[:60])
    for words, says in (
        ([], "python predict.py IMAGE"),
        (["--help"], "python predict.py IMAGE"),
        (["absent.png"], "absent.png cannot be read as an image: "),
        (["out/labels.json"], "out/labels.json cannot be read as an image: "),
        (["cut.png"], "cut.png cannot be read as an image: "),
    ):
        done = subprocess.run([sys.executable, "out/predict.py", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr


def test_channels_that_no_picture_has_are_read_from_an_array(tmp_path: Path) -> None:
    spec = DataSpec("made", 3, 2, 6, (0.5, 0.25), (0.5, 0.25))
    classifier = ImageClassifier(nn.Sequential(nn.Flatten(), nn.Linear(72, 3)), spec.mean, spec.std).eval()
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 6), dtype=np.uint8)
    np.save("array.npy", images)
    write_onnx(classifier, (2, 6, 6), {}, tmp_path / "student.onnx")
    (tmp_path / "labels.json").write_text('["a", "b", "c"]')
    (tmp_path / "predict.py").write_text(predict_program("onnx", spec))
    found = predict(tmp_path, tmp_path / "array.npy", tmp_path, ("raykd", "torch", "PIL"))
    shares = classifier(torch.from_numpy(images)[None])[0].softmax(0).detach()
    expected = [(100 * float(shares[k]), "abc"[k]) for k in shares.argsort(descending=True)]
    assert_alike(found, expected)


@pytest.fixture
def own_code(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe whose student is code of a module here, and a user who has named none yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(permission, "_permitted", set())
    monkeypatch.delitem(sys.modules, "viewing", raising=False)
    (tmp_path / "viewing.py").write_text(FACTORY)
    recipe = {
        "data": {"name": "digits", "pad": 2},
        "teacher": {"model": "lenet5", "weights": str(store.parent / "lenet5.safetensors")},
        "student": {"factory": "viewing:Viewing", "factory_args": {"width": 3}, "output": "main"},
        "method": {"name": "noise"},
        "student_optim": OPTIM,
        "schedule": {**BUDGET, "steps": 2},
    }
    (tmp_path / "own.yaml").write_text(json.dumps(recipe))
    return tmp_path / "own.yaml"


def trained(recipe: Path, function: str = "Viewing") -> Path:
    overrides = {"student.factory": f"viewing:{function}"}
    return Path(str(raykd.train(recipe, overrides=overrides, progress=False).directory))


def test_a_network_of_the_users_own_needs_its_module_only_as_weights(
    own_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(own_code)
    made = raykd.export(run, "weights", format="safetensors")
    assert (made.model.same_answers, made.needs[-1]) == (359, "your module viewing")
    assert "imports viewing: that module is not part of this folder" in Path("weights/README.md").read_text()
    image = picture(tmp_path, (28, 28), "RGB")
    of_weights = predict(tmp_path / "weights", image, tmp_path, ("raykd",))
    monkeypatch.setattr(permission, "_permitted", set())  # now as somebody else, who has this run alone
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    monkeypatch.delitem(sys.modules, "viewing")
    with pytest.raises(UsageError, match="--allow-code"):
        raykd.export(run, "refused", format="state-dict")
    made = raykd.export(run, "program")
    assert "viewing" not in sys.modules, "its graph was exported"
    assert (made.model.same_answers, made.needs) == (359, ["onnxruntime", "numpy", "pillow"])
    (tmp_path / "viewing.py").unlink()
    assert_alike(predict(tmp_path / "program", image, tmp_path, ("raykd", "torch")), of_weights)


@pytest.mark.parametrize(
    ("function", "error", "words", "form"),
    [
        ("TwoFaced", RunFailed, "differs from the student: by 1 in a logit on digits/test", "onnx"),
        ("TwoFaced", RunFailed, "differs from the student: by 1 in a logit on digits/test", "torch-export"),
        ("Branching", UsageError, "cannot be expressed as a program .* give --format safetensors", "onnx"),
    ],
)
def test_what_would_answer_differently_is_not_left_behind(
    own_code: Path, tmp_path: Path, function: str, error: type[Exception], words: str, form: str
) -> None:
    run = trained(own_code, function)
    with pytest.raises(error, match=words):
        raykd.export(run, "out/mine", format=form)
    assert_nothing_left(tmp_path / "out")
    assert raykd.export(run, "out/mine", format="state-dict").model.same_answers == 359


def test_a_network_in_memory_is_exported_where_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_memory, "_NETWORKS", {})
    result = raykd.train(
        "dafl_digits", teacher=network(32), student=network(), data=pair(), overrides=SHORT, progress=False
    )
    made = raykd.export(result, "out", int8=True)
    assert (made.images, made.model.same_answers, made.class_names) == (40, 40, True)
    assert json.loads(Path("out/labels.json").read_text()) == [str(label) for label in range(10)]
    in_memory._NETWORKS.clear()  # as in another process
    with pytest.raises(UsageError, match="give it again, .* export"):
        raykd.export(result, "again")
    assert raykd.export(result, "again", student=network()).model.same_answers == 40
    with pytest.raises(UsageError, match="export it as onnx or torch-export"):
        raykd.export(result, "weights", format="safetensors", student=network())


def test_without_test_split_and_generator_random_pixels_are_compared(
    grey: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    run = copied(grey, tmp_path)
    record = read_json(run.path / "experiment.json", "")
    (entry,) = record["runs"].values()
    entry["recipe"]["data"]["name"] = "gone"
    write_json(run.path / "experiment.json", record)
    made = raykd.export(run.path, "out")
    assert (made.compared_on, made.images, made.model.top1) == ("random pixels", 256, None)
    assert "the test split is not here" in caplog.text
    assert "random pixels bear no labels" in Path("out/README.md").read_text()
    with pytest.raises(UsageError, match="gone"):
        raykd.export(run.path, "int8", int8=True)


def test_a_run_whose_record_is_lost_does_not_pass_for_data_free(grey: Path, tmp_path: Path) -> None:
    run = copied(grey, tmp_path)
    for name in ("environment.json", "status.json"):
        (run.path / name).unlink()
    raykd.export(run.path, "out")
    card = Path("out/README.md").read_text()
    assert "| data opened, train | unknown: the run's record is lost |" in card and "no image of the data" not in card
    about = onnxruntime.InferenceSession("out/student.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(about["data_opened"]) == "unknown: the run's record is lost"


def test_eight_bits_are_calibrated_on_other_images_than_they_are_compared_on(colour: Path) -> None:
    run = RunDirectory(colour)
    spec, workspace = run.data(), Workspace(None, colour.parent)
    assert spec is not None
    images = RunImages(run, spec, workspace, World.alone())
    shown, calibration = images.to_compare().pixels, images.to_calibrate().pixels
    source, _, _ = open_source(run, workspace, World.alone())
    expected = torch.empty(512, 3, 16, 16)
    for positions, made in source.images(range(1024, 1536)):
        expected[positions] = made
    expected = (255 * spec.denormalise(expected).clamp(0, 1)).round()[..., 2:-2, 2:-2]
    assert torch.equal(calibration, expected.to(torch.uint8))
    assert not {one.numpy().tobytes() for one in shown} & {one.numpy().tobytes() for one in calibration}


def test_a_sound_student_is_exported_though_its_generators_are_damaged(
    colour: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = copied(colour, tmp_path)
    shutil.rmtree(max(run.checkpoints.glob("step_*")))
    made = raykd.export(run.path, "out")
    assert (made.compared_on, made.model.same_answers) == ("random pixels", 256)
    (warning,) = [one.getMessage() for one in caplog.records if "random ones" in one.getMessage()]
    assert "the run's own images cannot be had" in warning and "restore it" in warning
    with pytest.raises(CorruptError, match="the checkpoint of step 4"):
        raykd.export(run.path, "int8", int8=True)


def test_images_of_a_run_are_made_with_the_copy_of_its_teacher(colour: Path, tmp_path: Path) -> None:
    run = copied(colour, tmp_path)
    record = read_json(run.path / "experiment.json", "")
    (entry,) = record["runs"].values()
    entry["recipe"]["teacher"]["weights"] = "gone.safetensors"
    write_json(run.path / "experiment.json", record)
    assert raykd.export(run.path, "without").compared_on == "random pixels"
    shutil.copytree(colour.parent / "weights", tmp_path / "runs/weights")
    assert raykd.export(run.path, "with").compared_on == "synthetic images of colour-00000000-s0"


def copied(path: Path, tmp_path: Path) -> RunDirectory:
    return RunDirectory(Path(shutil.copytree(path, tmp_path / "runs" / path.name)))


def test_numbers_that_are_not_finite_are_damage(grey: Path, tmp_path: Path) -> None:
    run = copied(grey, tmp_path)
    weights = {key: tensor * float("nan") for key, tensor in read_tensors(run.student, "").items()}
    save_file(weights, run.student, checksum_metadata(weights, {}))
    run.write_status(student_sha256=sha256_of(run.student))
    with pytest.raises(CorruptError, match="answers are not finite"):
        raykd.export(run.path, "out", format="torch-export")
    assert_nothing_left(tmp_path, "runs")


def test_more_weights_than_a_file_of_onnx_holds_are_refused_before(
    grey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_formats, "_MOST_BYTES", 60_000)
    with pytest.raises(UsageError, match="take 61.4. KiB, and one file of ONNX holds 58.59 KiB: give --format torch"):
        raykd.export(grey, "out")
    assert_nothing_left(tmp_path)


def test_formats_are_those_of_the_command_line(grey: Path) -> None:
    with pytest.raises(UsageError, match=f"unknown format 'tflite'.*{FORMATS[0]}"):
        raykd.export(grey, "out", format="tflite")


@pytest.mark.endurance
@pytest.mark.parametrize("model", MODELS)
def test_every_built_in_network_is_exported(model: str, store: Path) -> None:
    recipe = yaml.safe_load((store.parent / "colour.yaml").read_text())
    recipe["data"] |= {"size": 32}
    Path("one.yaml").write_text(json.dumps({**recipe, "student": {"model": model}}))
    run = raykd.train("one.yaml", progress=False)
    made = raykd.export(run, "out", int8=True)
    assert made.model.same_answers >= made.images - 2, "but for ties"
    assert made.int8 is not None and made.int8.bytes < made.model.bytes / 2

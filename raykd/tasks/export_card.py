"""What lies beside an exported network: a card that says what it is and comes from, and a program that uses it.

Texts of others, such as names of classes and data sets, stand in the card as text of Markdown alone, and not in the
program at all: it reads names from a file.
"""

import html
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import yaml

import raykd
from raykd.files import gib
from raykd.recipe.experiment import Experiment
from raykd.recipe.sections import NetworkConfig, TeacherConfig
from raykd.results import FORMATS, ExportedModel, ExportResult, RunResult
from raykd.spec import DataSpec
from raykd.tasks.export_formats import FILES, NETWORK

LABELS, PREDICT, CARD = "labels.json", "predict.py", "README.md"
QUANTISED = "student.int8.onnx"
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#.!|~$:@])")
_SHOWN_CLASSES = 20
UNKNOWN = "unknown: the run's record is lost"
"""What a run has opened, where it has kept no note of that."""
_MODES = {1: "L", 3: "RGB"}  # of Pillow, by the number of channels
_ONNX, _PROGRAM, _TENSORS, _STATE = (FILES[form] for form in FORMATS)
_LIBRARIES = {"onnx": "onnx"}  # as model hubs name them; of the other formats it is pytorch
_PACKAGES = {
    "onnx": ["onnxruntime", "numpy"],
    "torch-export": ["torch"],
    "safetensors": ["torch", "safetensors"],
    "state-dict": ["torch"],
}
_SETUPS = {
    "onnx": [f'session = onnxruntime.InferenceSession(here / (sys.argv[2:] or ["{_ONNX}"])[0])'],
    "torch-export": [f'network = torch.export.load(here / "{_PROGRAM}").module()'],
    "safetensors": [
        "network = build().eval()",
        f'network.network.load_state_dict(load_file(here / "{_TENSORS}"))',
    ],
    "state-dict": [
        "network = build().eval()",
        f'network.network.load_state_dict(torch.load(here / "{_STATE}", weights_only=True))',
    ],
}


@dataclass(frozen=True)
class Provenance:
    """Where a student comes from.

    Attributes:
        experiment: of its run.
        result: of its run; None where that is lost.
        data_opened: what its run has opened, by role; empty where it has kept no note of that.
        teacher_sha256: of its teacher's weights, where the run has noted them.
        parameters: how many it has.
    """

    experiment: Experiment
    result: RunResult | None
    data_opened: Mapping[str, Any]
    teacher_sha256: str | None
    parameters: int


def packages(form: str, spec: DataSpec) -> list[str]:
    """Return what pip installs for the program of a format."""
    return list(dict.fromkeys([*_PACKAGES[form], "pillow" if spec.channels in _MODES else "numpy"]))


def predict_program(form: str, spec: DataSpec) -> str:
    """Return a program that classifies an image with an exported network, without raykd.

    It takes an image file where the network takes one or three channels, else an array in a .npy file.
    """
    is_onnx, side, channels = form == "onnx", spec.interior, spec.channels
    # What each edge loses before the shorter side is the network's.
    bleed = f", bleed={(1 - spec.crop_pct) / 2:g}" if spec.crop_pct != 1 else ""
    library, mode = "np" if is_onnx else "torch", _MODES.get(channels)
    imports = ["import numpy as np", "import onnxruntime"] if is_onnx else ["import torch"]
    if mode is None:
        usage = "ARRAY.npy"
        imports = ["import numpy as np", *(line for line in imports if "numpy" not in line)]
        pixels = [f"pixels = np.load(sys.argv[1]).reshape(1, {channels}, {side}, {side})  # uint8"]
        pixels += [] if is_onnx else ["pixels = torch.from_numpy(pixels)"]
    else:
        usage = "IMAGE"
        imports.append("from PIL import Image, ImageOps")
        turned = ".transpose(0, 3, 1, 2)" if is_onnx else ".permute(0, 3, 1, 2).contiguous()"
        pixels = [
            "try:",
            "    image = Image.open(sys.argv[1])",
            "    image.load()",
            "except OSError as error:",
            '    sys.exit(f"{sys.argv[1]} cannot be read as an image: {error}")',
            # Grey levels of 16 bits; readers of these formats widen them to 32, and no others are read as such.
            'if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):',
            '    image = image.convert("I").point(lambda level: level / 257 + 0.5).convert("L")',
            'elif image.mode in ("I", "F"):',
            '    sys.exit(f"{sys.argv[1]} has pixels of mode {image.mode}, of unknown range: save it with 8 bits")',
            'image = ImageOps.exif_transpose(image).convert("RGBA")',
            f'image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("{mode}")',
            f"image = ImageOps.fit(image, ({side}, {side}), Image.Resampling.BILINEAR{bleed})",
            f"pixels = {library}.frombuffer(bytearray(image.tobytes()), dtype={library}.uint8)",
            # One channel is not turned: strides that tell another layout would be left.
            f"pixels = pixels.reshape(1, 1, {side}, {side})"
            if channels == 1
            else f"pixels = pixels.reshape(1, {side}, {side}, {channels}){turned}",
        ]
    if form == "safetensors":
        imports.append("from safetensors.torch import load_file")
    if form in ("safetensors", "state-dict"):
        imports += ["", "from network import build"]
    if is_onnx:
        usage += f" [{QUANTISED}]"
        answer = [
            'logits = session.run(None, {"images": pixels})[0][0]',
            "shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()",
            "for k in np.argsort(-shares)[:5]:",
        ]
    else:
        answer = ["shares = network(pixels)[0].softmax(0)", "for k in shares.argsort(descending=True)[:5]:"]
    lines = [
        f'"""Say what an image shows: python predict.py {usage}. Needs {", ".join(packages(form, spec))}."""',
        "",
        "import json",
        "import sys",
        "from pathlib import Path",
        "",
        *imports,
        "",
        'if len(sys.argv) < 2 or sys.argv[1].startswith("-"):',
        "    sys.exit(__doc__)",
        "here = Path(__file__).parent",
        *_SETUPS[form],
        'names = json.loads((here / "labels.json").read_text(encoding="utf-8"))',
        *pixels,
        *answer,
        '    print(f"{shares[k]:8.2%}  {names[k]!r}")',
    ]
    return "\n".join(lines) + "\n"


def model_card(made: ExportResult, spec: DataSpec, origin: Provenance) -> str:
    """Return the card of an export, in Markdown with a head of YAML: a licence is left for its user to fill in."""
    recipe = origin.experiment.recipe
    head = {
        "library_name": _LIBRARIES.get(made.format, "pytorch"),
        "pipeline_tag": "image-classification",
        "tags": [*(["knowledge-distillation"] if recipe.teacher is not None else []), "raykd"],
    }
    sections = [
        f"---\nlicense:  # fill in before you publish this\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {_text(made.run)}",
        f"A classifier of {spec.num_classes} classes, {'trained' if recipe.teacher is None else 'distilled'} by raykd "
        f"{raykd.__version__} with the method {_text(recipe.method.name)} and exported as {made.format}.",
        _table(_rows(made, spec, origin)),
        f"## Use\n\n```sh\npip install {' '.join(packages(made.format, spec))}\npython predict.py "
        f"{'IMAGE' if spec.channels in _MODES else 'ARRAY.npy'}\n```\n\n{_input_text(made, spec)}",
        "## Files\n\n" + "\n".join(f"- {line}" for line in _files(made, spec, recipe.student)),
        "## Limits\n\n" + "\n".join(f"- {line}" for line in _limits(made, spec, origin)),
        "## Licence\n\nTo be filled in by whoever publishes this, here and in `license` at the top. What the teacher "
        "and the data that it learned from are licensed under may bind this network too.",
    ]
    return "\n\n".join(sections) + "\n"


def _rows(made: ExportResult, spec: DataSpec, origin: Provenance) -> Iterable[tuple[str, str]]:
    recipe, result = origin.experiment.recipe, origin.result
    yield "student", f"{_network(recipe.student)}, {origin.parameters:,} parameters"
    if recipe.teacher is not None:
        sums = f", weights sha256 {origin.teacher_sha256}" if origin.teacher_sha256 else ""
        yield "teacher", _network(recipe.teacher) + _text(sums)
    yield "method", f"{_text(recipe.method.name)}, {recipe.schedule.steps:,} steps, recipe {_text(recipe.name)}"
    opened = {role: sets for role, sets in origin.data_opened.items() if sets}
    none = "none: no image of the data was trained on" if origin.data_opened else UNKNOWN
    yield "data opened, train", _sets(opened.pop("train", ())) or none
    for role, sets in opened.items():
        yield f"data opened, {_text(role)}", _sets(sets)
    if result is not None:
        yield "accuracy", _accuracy(result, made)
        if result.teacher is not None and result.teacher.top1 is not None:
            yield "accuracy of its teacher", f"{result.teacher.top1:.2f} % top-1"
        for text in result.warnings or ():
            yield "warning", _text(text)
    yield (
        "compared",
        (
            f"with the student on {_text(made.compared_on)}, {made.images:,} images: {made.model.same_answers:,} equal "
            f"answers, largest difference of a logit {made.max_difference:.2g} (allowed: {made.tolerance:.2g})"
        ),
    )
    yield "classes", _classes(spec)


def _accuracy(result: RunResult, made: ExportResult) -> str:
    student = result.student
    how = {
        "blind": "chosen without a look at real images",
        "last": "that of the last step",
        "best": "the oracle's: chosen by the test images themselves",
    }[made.selected]
    figures = []
    if student.top1 is not None:
        figures.append(f"{student.top1:.2f} % top-1 on the test split")
    if student.agreement is not None:
        figures.append(f"{student.agreement:.2f} % agreement with its teacher there")
    if student.synthetic_agreement is not None and result.not_judged is None:
        figures.append(f"{student.synthetic_agreement:.2f} % agreement with its teacher on synthetic images")
    return f"{'; '.join(figures) or 'not measured'} (the {made.selected} student, {how})"


def _files(made: ExportResult, spec: DataSpec, student: NetworkConfig | None) -> Iterable[str]:
    yield f"`{made.model.file}`: {_measured(made.model)}" + (f", opset {made.opset}" if made.opset else "")
    if made.int8 is not None:
        yield (
            f"`{made.int8.file}`: 8 bits, calibrated on {_text(made.calibrated_on or '')}; {_measured(made.int8)}; "
            f"{made.int8.same_answers:,} of {made.images:,} answers equal to the student's"
        )
    if made.format in ("safetensors", "state-dict"):
        own = (
            ""
            if student is None or student.factory is None
            else (f", which imports {_text(student.factory.partition(':')[0])}: that module is not part of this folder")
        )
        yield f"`{NETWORK}`: the network's definition{own}"
    yield f"`{LABELS}`: {'names' if made.class_names else 'numbers'} of the classes, in their order"
    what = "an image file" if spec.channels in _MODES else "an array in a file"
    yield f"`{PREDICT}`: classifies {what}; it needs what is named above, and not raykd"


def _limits(made: ExportResult, spec: DataSpec, origin: Provenance) -> Iterable[str]:
    yield "It knows its classes only, and answers with one of them whatever it is shown."
    if origin.experiment.recipe.teacher is not None:
        yield "It imitates its teacher, faults included."
    ece = None if origin.result is None else origin.result.student.ece
    measured = "" if ece is None else f": their expected calibration error on the test split is {ece:.2f} %"
    yield f"Shares that it prints are no probabilities to rely on{measured}."
    if not spec.normalisation_known:
        yield "Nobody has stated how its input is normalised: mean and deviation of 0.5 stand in for that."
    if not made.class_names:
        yield f"The run knows no names of the classes; put them into `{LABELS}`."
    if made.format == "torch-export":
        yield "To read a `.pt2` file may run code that stands in it: load those of people whom you trust."
    if made.model.top1 is None:
        yield f"Its accuracy was not measured after the export: {_text(made.compared_on)} bear no labels."


def _measured(model: ExportedModel) -> str:
    figures = [gib(model.bytes)]
    if model.top1 is not None:
        figures.append(f"{model.top1:.2f} % top-1")
    if model.latency_ms is not None:
        figures.append(f"{model.latency_ms:.3g} ms an image (median, one thread of the CPU that exported it)")
    return ", ".join(figures)


def _input_text(made: ExportResult, spec: DataSpec) -> str:
    padded = f", framed in {spec.pad} black pixels" if spec.pad else ""
    numbers = f"mean {list(spec.mean)} and deviation {list(spec.std)} of pixels in [0, 1]"
    scaled = f" `{PREDICT}` scales the shorter side to {spec.shorter_side} and cuts out the centre."
    return (
        f"Input: {made.input}. Output: {made.output}. Images are normalised inside ({numbers}){padded}: give pixels as "
        f"they are.{scaled if spec.channels in _MODES else ''}"
    )


def _network(config: NetworkConfig | TeacherConfig | None) -> str:
    if config is None:
        return "unknown"
    recipe = getattr(config, "recipe", None)
    if recipe is not None:
        return f"trained by recipe {_text(PurePath(recipe).name)}"
    return _text(str(config.model or config.factory))


def _sets(names: Iterable[Any]) -> str:
    """Name data sets; of one that is a folder its last part and the split, since the rest is of a machine."""
    return ", ".join(_text("/".join(PurePath(str(name)).parts[-2:])) for name in names)


def _classes(spec: DataSpec) -> str:
    names = [_text(name) for name in spec.class_names[:_SHOWN_CLASSES]]
    more = spec.num_classes - len(names)
    if not names:
        return f"{spec.num_classes}, without names"
    return ", ".join(names) + (f" and {more} more" if more else "")


def _table(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _text(text: str) -> str:
    """Return a text of somebody else as it stands, on one line of Markdown: it is no markup there."""
    plain = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    return html.escape(_MARKDOWN.sub(r"\\\1", plain), quote=False)

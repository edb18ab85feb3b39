"""How a student is written, and read again, in each format: nothing of raykd is needed to read one.

All take images [B, C, S, S] of uint8 and answer logits [B, K]; how the network wants pixels normalised is inside.

Shapes: B images of C channels and S x S pixels, K classes.
"""

import importlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from raykd.errors import SetupError, UsageError
from raykd.files import describe, gib
from raykd.models.factories import call_arguments, first_line, split_target
from raykd.models.image_classifier import ImageClassifier
from raykd.models.in_memory import PREFIX
from raykd.models.source import factory_source, network_source
from raykd.recipe.sections import NetworkConfig
from raykd.spec import DataSpec
from raykd.store.checkpoint import save_weights
from raykd.store.run_directory import STUDENT
from raykd.tensors import checksum_metadata

Predict = Callable[[Tensor], Tensor]
"""Maps images [B, C, S, S] of uint8 to logits [B, K]."""

OPSET = 18
"""Of ONNX: torch's exporter writes it without conversion, and onnxruntime reads it since 1.14 (2023)."""
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
FILES = {
    "onnx": "student.onnx",
    "torch-export": "student.pt2",
    "safetensors": STUDENT,
    "state-dict": "student.pt",
}
NETWORK = "network.py"
"""Where the network's definition is, beside weights alone."""
INPUT, OUTPUT = "images", "logits"
"""Names of the input and the output in ONNX."""
_MOST_BYTES = 2**31 - 2**20  # of weights: a file of ONNX is one message of protobuf
_EXAMPLE = 4  # images that the network is traced with; one alone would be taken for a constant


@contextmanager
def quietly() -> Iterator[None]:
    """Within: what torch's and onnxruntime's exporters warn, print and log about themselves is not shown."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)


def require_packages() -> None:
    """Refuse where what ONNX takes is not installed.

    Raises:
        SetupError: naming what is missing.
    """
    for name in ONNX_PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise SetupError(
                f"exporting to ONNX needs {name} ({error}); run `pip install 'raykd[export]'`, or give --format "
                "torch-export, safetensors or state-dict, which need no more than torch"
            ) from error


def write_onnx(
    classifier: ImageClassifier, shape: tuple[int, int, int], metadata: Mapping[str, str], file: Path
) -> None:
    """Write a network as ONNX, of any batch size, with facts about it.

    Args:
        classifier: in evaluation mode, on the CPU.
        shape: of an image (C, S, S).
        metadata: names and texts.
        file: where to.

    Raises:
        UsageError: if it cannot be expressed.
        OSError: if the disk does not take it.
    """
    import onnx

    size = sum(tensor.numel() * tensor.element_size() for tensor in classifier.state_dict().values())
    if size > _MOST_BYTES:
        raise UsageError(
            f"the student's weights take {gib(size)}, and one file of ONNX holds {gib(_MOST_BYTES)}: give --format "
            "torch-export, safetensors or state-dict"
        )
    program = _trace(classifier, shape)
    with quietly(), _refusals():
        exported = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, input_names=[INPUT], output_names=[OUTPUT], verbose=False
        )
        assert exported is not None, "it is when no file is given"
        model = exported.model_proto
    _strip(model)
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    file.write_bytes(model.SerializeToString())


def read_onnx(file: Path) -> Predict:
    """Return what onnxruntime makes of an ONNX file, on the CPU, with as many threads as torch has."""
    session = onnx_session(file, torch.get_num_threads())

    def predict(images: Tensor) -> Tensor:
        (logits,) = session.run(None, {INPUT: images.numpy()})
        return torch.from_numpy(logits)

    return predict


def onnx_session(file: Path, threads: int) -> Any:
    """Open an ONNX file in onnxruntime, on the CPU."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)  # errors: it warns of devices that a container hides
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(os.fspath(file), options, providers=["CPUExecutionProvider"])


def write_program(classifier: ImageClassifier, shape: tuple[int, int, int], file: Path) -> None:
    """Write a network as a program of torch.export, of any batch size; arguments as ``write_onnx``.

    Raises:
        UsageError: if it cannot be expressed.
        OSError, SafetensorError: if the disk does not take it.
    """
    program = _trace(classifier, shape)
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)  # it names files of this machine
    content = io.BytesIO()  # torch's own writer tells of a full disk without the system's reason
    with quietly():
        torch.export.save(program, content)
    file.write_bytes(content.getbuffer())


def read_program(file: Path) -> Predict:
    """Return the program of a file that was written just now: to read one of somebody else's may run code."""
    with quietly():
        module = torch.export.load(file).module()

    @torch.no_grad()
    def predict(images: Tensor) -> Tensor:
        logits: Tensor = module(images)
        return logits

    return predict


def write_weights(network: nn.Module, spec: DataSpec, file: Path) -> None:
    """Write a network's state dict, as safetensors or as torch's, by the file's name.

    Raises:
        OSError, SafetensorError: if the disk does not take it.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    if file.suffix == ".safetensors":
        save_weights(weights, file, checksum_metadata(weights, spec.to_dict()))
    else:
        content = io.BytesIO()
        torch.save(weights, content)
        file.write_bytes(content.getbuffer())


def read_weights(file: Path) -> Predict:
    """Return the network of weights, as the file of Python beside them defines it; that was written just now."""
    names: dict[str, Any] = {"__name__": "network"}
    source = file.with_name(NETWORK)
    try:
        with torch.random.fork_rng(devices=[]):
            exec(
                compile(source.read_text(encoding="utf-8"), source.name, "exec"), names
            )  # imported, it would be cached
            classifier: ImageClassifier = names["build"]()
    except ImportError as error:  # of a user's own module
        raise UsageError(f"the network's definition cannot be used here: {describe(error)}") from None
    tensors = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
    classifier.network.load_state_dict(tensors)
    classifier.eval()

    @torch.no_grad()
    def predict(images: Tensor) -> Tensor:
        logits: Tensor = classifier(images)
        return logits

    return predict


def define_network(config: NetworkConfig, spec: DataSpec) -> str:
    """Return the source of a module whose ``build()`` makes a student's network.

    Raises:
        UsageError: of a network that only its program knew, or a factory that is not here.
    """
    if config.factory is None:
        assert config.model is not None, "validated by the recipe"
        return network_source(config.model, spec)
    if config.factory.startswith(PREFIX):
        raise UsageError(
            "the student was a network in a program's memory, so weights alone would be of no use: export it as onnx "
            "or torch-export, which hold the network too"
        )
    sizes = {"num_classes": spec.num_classes, "channels": spec.channels, "size": spec.size}
    arguments = call_arguments(config.factory, config.factory_args, **sizes)
    return factory_source(*split_target(config.factory), arguments, spec, config.output)


def _trace(classifier: ImageClassifier, shape: tuple[int, int, int]) -> torch.export.ExportedProgram:
    batch = {0: torch.export.Dim("batch", min=1)}
    example = torch.zeros(_EXAMPLE, *shape, dtype=torch.uint8)
    with quietly(), _refusals(), torch.random.fork_rng(devices=[]), torch.no_grad():
        return torch.export.export(classifier, (example,), dynamic_shapes=(batch,), strict=False)


@contextmanager
def _refusals() -> Iterator[None]:
    """Say of whatever torch makes of a network's code that it has no such form.

    Raises:
        UsageError: with the reason and what to do.
    """
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:  # of the user's own code, or torch's tracing of it: it may fail in any way
        raise UsageError(
            f"the student cannot be expressed as a program for batches of any size ({type(error).__name__}: "
            f"{first_line(error)}); give --format safetensors or state-dict, which need its code"
        ) from None


def _strip(model: Any) -> None:
    """Leave of an ONNX model what computes: notes of the exporter name files of this machine.

    The dimension that is free is called ``batch``.
    """
    graph = model.graph
    del graph.value_info[:]
    for item in (model, graph, *model.functions, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del item.metadata_props[:]
        item.doc_string = ""
    for item in (*graph.input, *graph.output):
        first = item.type.tensor_type.shape.dim[0]
        first.dim_param = "batch"

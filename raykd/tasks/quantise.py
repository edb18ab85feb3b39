"""An ONNX network with weights and activations of 8 bits, by onnxruntime: static, calibrated on images.

Weights have a scale for each output channel, activations one for each tensor, over the smallest and the largest value
that the images lead to (QDQ format, signed 8 bits for both, as onnxruntime advises to begin with).

Shapes: N images of C channels and S x S pixels.
"""

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from raykd.errors import RunFailed
from raykd.models.factories import first_line
from raykd.tasks.export_formats import INPUT, onnx_session, quietly

_BATCH = 32
_RUNS, _SECONDS = 200, 2.0  # that the time of one image is measured over, at most


def quantise(file: Path, images: Tensor, target: Path) -> None:
    """Write an ONNX network in 8 bits.

    Args:
        file: of the float network.
        images: uint8 (N, C, S, S) that it is calibrated on.
        target: where to.

    Raises:
        RunFailed: if onnxruntime cannot.
        OSError: if the disk does not take it.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with TemporaryDirectory(dir=target.parent, prefix=".") as folder, quietly():
        prepared = Path(folder) / "prepared.onnx"
        try:
            # BatchNorm becomes a part of the convolution before it, else its product would be rounded once more.
            quant_pre_process(file, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                target,
                _Reader(images),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
            )
        except (OSError, MemoryError):
            raise
        except Exception as error:  # onnxruntime's own classes, of any operation that it has no 8 bits for
            # Of a disk that is full it does not tell: what it wrote there is cut off.
            (Path(folder) / "room").write_bytes(bytes(2 * file.stat().st_size))
            raise RunFailed(
                f"onnxruntime cannot quantise the student ({type(error).__name__}: {first_line(error)}): export it "
                "without --int8"
            ) from None


def latency_ms(file: Path, shape: tuple[int, int, int]) -> float:
    """Return the median milliseconds that an ONNX network takes for one image (C, S, S), on one thread of the CPU."""
    session, seconds = onnx_session(file, threads=1), list[float]()
    image = np.zeros((1, *shape), dtype=np.uint8)
    begin = time.perf_counter()
    while len(seconds) < _RUNS and (not seconds or time.perf_counter() - begin < _SECONDS):
        started = time.perf_counter()
        session.run(None, {INPUT: image})
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds)


class _Reader:
    """Hands images to onnxruntime's calibration, batch by batch."""

    def __init__(self, images: Tensor) -> None:
        self._batches = iter(images.split(_BATCH))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """Return the next batch by the input's name; None behind the last."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch.numpy()}

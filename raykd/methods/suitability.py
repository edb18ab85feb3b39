"""What speaks for and against a method with a given teacher, by signs that can be measured without training."""

from collections.abc import Iterable

from raykd.methods.base import Method
from raykd.methods.signs import Remark, Suitability, TeacherSigns

_DIVISOR = 4  # of the sizes that generators make: they double small maps twice
SATURATED = 99.0
"""Per cent of mean confidence on Gaussian inputs."""
_MOSTLY = 0.5


def judge(method: type[Method], signs: TeacherSigns) -> Suitability:
    """Return what the signs say of a method, by what it declares and by what it says itself."""
    if "teacher" not in method.roles:
        return Suitability((Remark("refused", "it learns from no teacher"),))
    return Suitability((*_general(method, signs), *_inverting(method, signs), *method.judge_teacher(signs)))


def _general(method: type[Method], signs: TeacherSigns) -> Iterable[Remark]:
    if not signs.finite:
        yield Remark("refused", "the teacher's answers are not finite")
    if signs.wrong_input:
        yield Remark("con", signs.wrong_input)
    if "bank" in method.roles:
        yield Remark("needs", "a bank of generators made from it")
        if not signs.batch_norms:
            yield Remark("con", f"what makes banks matches BatchNorm: {signs.no_batch_norm}")
    if "train" in method.streams:
        yield Remark("needs", "train: images of its classes")
        if signs.train_missing:
            yield Remark("refused", f"no images of its classes to train on: {signs.train_missing}")
        else:
            yield Remark("pro", "images of its classes are there")
    if "ood" in method.streams:
        yield Remark("needs", "ood: images of another domain")
    if not method.streams and "bank" not in method.roles:
        yield Remark("needs", "no data")


def _inverting(method: type[Method], signs: TeacherSigns) -> Iterable[Remark]:
    """Judge a method that trains generators, or pixels, through the teacher."""
    generates = "generator_optim" in method.config.model_fields
    if not generates and "pixel_optim" not in method.config.model_fields:
        return
    if not signs.gradient:
        yield Remark("refused", "no gradient reaches the input")
    if generates and signs.size % _DIVISOR:
        yield Remark("refused", f"generators make sizes that {_DIVISOR} divides, not {signs.size}: set data.size")
    matches = method.needs_statistics(None)
    if matches and signs.batch_norms:
        yield Remark("pro", f"{signs.batch_norms} BatchNorm layers whose statistics images can match")
    elif matches:
        yield Remark("refused", signs.no_batch_norm)
    if signs.sick:
        yield Remark("con", "BatchNorm statistics are not those of real data")
    if signs.confidence is not None and signs.confidence > SATURATED:
        yield Remark("con", f"it is {signs.confidence:.1f} % sure of noise: gradients are small where training begins")
    elif signs.confidence is not None and signs.gradient:
        yield Remark("pro", f"gradients reach the input; {signs.confidence:.0f} % sure of noise")
    if signs.image_confidence is not None and signs.image_confidence < (signs.confidence or 0):
        yield Remark("con", f"it is less sure of images ({signs.image_confidence:.0f} %) than of noise")
    if signs.outside > _MOSTLY and "output_range" in method.config.model_fields:
        share = f"{100 * signs.outside:.0f} % of standardised pixels are none"
        yield Remark("pro", f"images keep to the range of its input ({share}): method.output_range")

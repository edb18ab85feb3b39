"""What a teacher's signs say for and against every method."""

from dataclasses import replace
from typing import Any

import pytest

from raykd.methods import METHODS
from raykd.methods.signs import TeacherSigns
from raykd.methods.suitability import judge

HEALTHY = TeacherSigns(
    classes=10, channels=3, size=32, batch_norms=19, no_batch_norm="no BatchNorm layer", sick=False, finite=True,
    gradient=True, confidence=60.0, noise_classes=7.0, image_confidence=95.0, negative_features=0.0, outside=0.01,
    wrong_input=None, train_missing=None,
)  # fmt: skip
INVERTING = {name for name, method in METHODS.items() if "generator_optim" in method.config.model_fields}
MATCHING = {name for name, method in METHODS.items() if method.needs_statistics(None)}
WITH_TEACHER = {name for name, method in METHODS.items() if "teacher" in method.roles}


def verdicts(**signs: Any) -> dict[str, str]:
    return {name: judge(method, replace(HEALTHY, **signs)).verdict for name, method in METHODS.items()}


def test_a_healthy_teacher_serves_all_that_take_one() -> None:
    found = verdicts()
    assert {name for name, verdict in found.items() if verdict == "usable"} == WITH_TEACHER
    assert {name for name, verdict in found.items() if verdict == "refused"} == METHODS.keys() - WITH_TEACHER


@pytest.mark.parametrize(
    ("signs", "refused", "limited"),
    [
        ({"batch_norms": 0}, MATCHING, {"adversarial", "pixel_inversion", "pool_inversion"}),
        ({"gradient": False}, {*INVERTING, "pixel_inversion"}, set()),
        ({"size": 30}, INVERTING, set()),
        ({"finite": False}, WITH_TEACHER, set()),
        ({"negative_features": 0.5}, set(), {"dafl"}),
        ({"train_missing": "none"}, {"kd", "tfkd_self"}, {"lsgdfd"}),
    ],
)
def test_a_sign_refuses_those_that_need_it(signs: dict[str, Any], refused: set[str], limited: set[str]) -> None:
    found = verdicts(**signs)
    assert {name for name in WITH_TEACHER if found[name] == "refused"} == refused
    assert {name for name in WITH_TEACHER if found[name] == "limited"} == limited


@pytest.mark.parametrize(
    ("name", "signs", "kind", "text"),
    [
        ("dafl", {}, "pro", "60 % sure of noise"),
        ("dafl", {"confidence": 99.9}, "con", "99.9 % sure of noise"),
        ("dafl", {"image_confidence": 40.0}, "con", "less sure of images (40 %)"),
        ("dafl", {"outside": 0.66}, "pro", "66 % of standardised pixels are none"),
        ("dafl", {"negative_features": 0.5}, "without", "(50 % of the teacher's are below 0): method.activation_w"),
        ("dafl", {"sick": True}, "con", "not those of real data"),
        ("dafl", {}, "needs", "no data"),
        ("adversarial", {}, "pro", "19 BatchNorm layers whose statistics images can match (DFQ, CuDFKD)"),
        ("adversarial", {"batch_norms": 0}, "without", "as DFAD or ZSKT and not as DFQ or CuDFKD (no BatchNorm layer)"),
        ("pool_inversion", {}, "pro", "19 BatchNorm layers"),
        ("pool_inversion", {"batch_norms": 0}, "without", "moments (no BatchNorm layer): method.moment_weight=0, in "),
        ("pool_inversion", {"sick": True}, "con", "match wrong statistics: compare with method.moment_weight=0"),
        ("lsgdfd", {}, "pro", "19 BatchNorm layers"),
        ("lsgdfd", {}, "pro", "each of 10 classes: 10 M"),
        ("lsgdfd", {"classes": 1000}, "con", "each of 1,000 classes"),
        ("lsgdfd", {"train_missing": "none"}, "without", "method.statistics=global"),
        ("bank_kd", {"batch_norms": 0}, "con", "what makes banks matches BatchNorm: no BatchNorm layer"),
        ("noise", {"noise_classes": 1.2}, "con", "1.2 of 10 classes"),
        ("noise", {}, "pro", "7.0 of 10 classes"),
        ("mosaickd", {}, "needs", "images of another domain"),
        ("kd", {"train_missing": "it is far away"}, "refused", "it is far away"),
        ("kd", {"wrong_input": "data.mean"}, "con", "data.mean"),
        ("tfkd_self", {}, "needs", "the teacher's own network"),
        ("supervised", {}, "refused", "no teacher"),
    ],
)  # fmt: skip
def test_every_remark_is_made_where_its_sign_is(name: str, signs: dict[str, Any], kind: str, text: str) -> None:
    texts = judge(METHODS[name], replace(HEALTHY, **signs)).texts(kind)
    assert any(text in one for one in texts), texts

"""The tests of a module stand where a reader looks for them, or it is said where they do."""

import pytest

from tests.architecture.imports import PACKAGE, ROOT

# Architectures and results that one parametrised test compares, and what is tested through a command line or on Ray.
COVERED_BY = {
    "cli/inner": "cluster/test_submission",
    "cli/jobs": "cluster/test_jobs",
    "cli/output": "cli/test_summary",
    "cli/submit": "cluster/test_submission",
    "cli/tune": "runners/test_tune",
    "config/file_schema": "recipe/test_recipe_schema",
    "distributed/processes": "tasks/test_nodes",
    "distributed/progress": "distributed/test_world",
    "engine/class_subset": "engine/test_imagenet_run",
    "engine/pace": "engine/test_failing_pair",
    "methods/blind_kd": "methods/test_others",
    "methods/inversion": "methods/test_lsgdfd",
    "methods/label_smoothing": "methods/test_teacher_free",
    "methods/moment_memory": "methods/test_pool_inversion",
    "methods/noise": "methods/test_others",
    "methods/signs": "methods/test_suitability",
    "methods/supervised": "methods/test_others",
    "methods/tfkd_reg": "methods/test_teacher_free",
    "methods/tfkd_self": "methods/test_teacher_free",
    "models/alexnet": "models/test_zoo",
    "models/densenet": "models/test_zoo",
    "models/googlenet": "models/test_zoo",
    "models/graph_limits": "models/test_graph",
    "models/hub_files": "models/test_torchvision_zoo",
    "models/packages": "models/test_timm_zoo",
    "models/published": "recipe/test_published_teacher",
    "models/published_facts": "models/test_torchvision_zoo",
    "models/graph_operations": "models/test_graph",
    "models/key_layouts": "models/test_weights_file",
    "models/image_classifier": "models/test_source",
    "models/lenet": "models/test_zoo",
    "models/mlp": "models/test_zoo",
    "models/mobilenet": "models/test_zoo",
    "models/resnet": "models/test_zoo",
    "models/resnext": "models/test_zoo",
    "models/shufflenet": "models/test_zoo",
    "models/vgg": "models/test_zoo",
    "models/wide_resnet": "models/test_zoo",
    "planning/on_cluster": "cli/test_plan",
    "results/distill": "runners/test_distill",
    "results/base": "store/test_run_directory",
    "results/blind": "engine/test_blind_pool",
    "results/export": "tasks/test_export",
    "results/image_statistics": "reporting/pages/test_pictures",
    "results/breakdown": "engine/test_evaluator",
    "results/plan": "planning/test_plan",
    "results/run": "store/test_run_directory",
    "results/store": "cli/test_runs",
    "results/search": "reporting/test_board",
    "results/table": "reporting/test_tables",
    "results/teacher": "cli/test_inspect",
    "runners/outcome": "runners/test_batch",
    "runners/report": "cli/test_report",
    "runners/table": "cli/test_table",
    "store/dependents": "cli/test_runs",
    "store/inventory": "cli/test_runs",
    "store/removal": "cli/test_runs",
    "store/status": "store/test_run_directory",
    "search/attributes": "search/test_study",
    "tasks/candidates": "cli/test_distill",
    "tasks/doctor": "cli/test_doctor",
    "tasks/export_card": "tasks/test_export",
    "tasks/export_formats": "tasks/test_export",
    "tasks/export_images": "tasks/test_export",
    "tasks/faults": "tasks/test_chaos",
    "tasks/init": "cli/test_init",
    "tasks/inspect": "cli/test_inspect",
    "tasks/quantise": "tasks/test_export",
    "tasks/statistics": "cli/test_statistics",
    "tasks/subject": "cli/test_inspect",
    "tasks/teacher_signs": "cli/test_inspect",
}
MODULES = sorted(
    path.relative_to(ROOT / PACKAGE).with_suffix("").as_posix()
    for path in (ROOT / PACKAGE).glob("*/*.py")
    if path.stem != "__init__"
)


def has_tests(module: str) -> bool:
    """Whether there is a file of the module's name in the room of its name."""
    room, name = module.split("/")
    return (ROOT / "tests" / room / f"test_{name}.py").is_file()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_a_file_of_tests_of_its_name_or_says_who_covers_it(module: str) -> None:
    assert has_tests(module) != (module in COVERED_BY), "either a file, or an entry"


def test_entries_name_modules_and_files_that_are_there() -> None:
    assert set(COVERED_BY) - set(MODULES) == set()
    assert {target for target in COVERED_BY.values() if not (ROOT / "tests" / f"{target}.py").is_file()} == set()

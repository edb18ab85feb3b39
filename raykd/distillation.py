"""The verb ``raykd.distill``: the best student that some minutes buy, for anybody's teacher; see ``raykd.api``."""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from raykd.cluster.config import Cluster, choose_site
from raykd.config.overrides import Overrides, as_pairs
from raykd.distributed.host import preserved_process
from raykd.results import DistillPlan, DistillResult
from raykd.runners.distill import session
from raykd.runners.interrupt import interruptible
from raykd.store.workspace import Location
from raykd.tasks.candidates import Request
from raykd.tasks.objects import Images

MINUTES = 10.0
"""What a session has, unless somebody says otherwise."""


def distill(
    teacher: str | Path | nn.Module,
    *,
    student: str | nn.Module | None = None,
    minutes: float = MINUTES,
    target: float | None = None,
    data: Images | None = None,
    methods: Sequence[str] = (),
    overrides: Overrides = (),
    out: Location | None = None,
    cluster: str | Path | Cluster | None = None,
    data_root: Location | None = None,
    progress: bool = True,
    should_stop: Callable[[], bool] | None = None,
    allow_code: bool = False,
    tune_host: bool = False,
) -> DistillResult:
    """Try ways of distilling a teacher side by side, judge them without a real image, and train the best to its end.

    The same call goes on with a session that was stopped, and reads one that is finished.

    Args:
        teacher: weights (.safetensors, .pt, ...), a published classifier's name, a YAML file of data and teacher, a
            recipe, a run directory, or a network in memory.
        student: a model's name, or a network, which starts from the weights that it has; default: one is proposed.
        minutes: that all of it may take.
        target: parameters that a proposed student may have, or which part of the teacher's if below 1.
        data: the set that the teacher knows; of a network in memory also images, see ``raykd.train``.
        methods: candidates or methods to try; default: all that fit the teacher.
        overrides: fields of all recipes, as in ``{"data.mean": [0.5]}``; the schedule is decided by the minutes.
        out: store of the run directories; default: the cluster's, else ``runs``.
        cluster: a name, a file or a Cluster; default: this process, without Ray. Candidates are trained one after the
            other.
        data_root: of data sets by name; default: the cluster's, else RAYKD_DATA.
        progress: whether to tell on stderr how it goes.
        should_stop: asked about twice a second whether to save and stop; default: Ctrl-C asks for it.
        allow_code: whether code that a run directory names may run.
        tune_host: whether allocator, threads and matrix products of this process may be set for speed.

    Raises:
        DistillStopped: once a stop was asked for; it names the best student so far.
        RaykdError: for what the caller must mend, or if all candidates failed.
    """
    site = choose_site(cluster, 0, out, data_root)
    request = _request(teacher, student, target, data, methods, overrides, allow_code)
    with preserved_process(), interruptible(should_stop) as stop:
        return session.distill(
            request,
            minutes,
            site.cluster,
            store=site.store,
            data_root=site.data_root,
            should_stop=stop,
            progress=progress,
            tune_host=tune_host,
        )


def plan_distillation(
    teacher: str | Path | nn.Module,
    *,
    student: str | nn.Module | None = None,
    minutes: float = MINUTES,
    target: float | None = None,
    data: Images | None = None,
    methods: Sequence[str] = (),
    overrides: Overrides = (),
    out: Location | None = None,
    cluster: str | Path | Cluster | None = None,
    data_root: Location | None = None,
    allow_code: bool = False,
    tune_host: bool = False,
) -> DistillPlan:
    """Tell what ``distill`` would do with the same arguments, by a few steps of each candidate; nothing is trained.

    Raises:
        RaykdError: for what the caller must mend.
    """
    site = choose_site(cluster, 0, out, data_root)
    request = _request(teacher, student, target, data, methods, overrides, allow_code)
    with preserved_process():
        return session.plan(
            request, minutes, site.cluster, store=site.store, data_root=site.data_root, tune_host=tune_host
        )


def _request(
    teacher: str | Path | nn.Module,
    student: str | nn.Module | None,
    target: float | None,
    data: Images | None,
    methods: Sequence[str],
    overrides: Overrides,
    allow_code: bool,
) -> Request:
    given = teacher if isinstance(teacher, nn.Module) else str(teacher)
    return Request(given, data, student, target, tuple(methods), tuple(as_pairs(overrides)), allow_code)

"""How a session ends: the recipe of its best run, an export, a page, and what speaks against the student."""

import logging
from dataclasses import replace
from importlib.util import find_spec

from raykd.distributed.world import World
from raykd.engine.judge import near_chance_below
from raykd.errors import RaykdError
from raykd.files import write_text, writing
from raykd.recipe.recipe import dump_recipe
from raykd.results import CandidateResult, DistillResult, Verdict
from raykd.runners.distill.causes import likeliest_causes
from raykd.runners.distill.plan import as_result
from raykd.runners.distill.record import Member, Record, SessionFolder
from raykd.runners.pages import keep_session_page
from raykd.store.run_directory import RunDirectory
from raykd.store.workspace import Workspace
from raykd.tasks.export import export_run

logger = logging.getLogger(__name__)


def end_session(
    folder: SessionFolder, record: Record, workspace: Workspace, chosen: Member, final: Verdict | None
) -> Record:
    """Write what a session leaves behind, and return its record with the result.

    Args:
        folder: where.
        record: all that was found.
        workspace: where the runs are.
        chosen: whose run is finished.
        final: of all candidates, the chosen one as it is in the end.

    Raises:
        SetupError: if the disk does not take it.
    """
    experiment, about = chosen.experiment, record.plan.about
    run = workspace.run(experiment.run_id)
    result = run.result()
    assert result is not None, "it is finished"
    with writing(f"the recipe into {folder.path}"):
        write_text(folder.recipe, dump_recipe(experiment.recipe))
    exported = _export(run, folder, workspace)
    judged = None if final is None else final.agreement.get(chosen.name)
    warnings = [*(result.warnings or []), *([result.not_judged] if result.not_judged else [])]
    beats = _beats_control(chosen, record, final)
    if beats is False:
        warnings.append("the student is no better than one that has learnt from noise alone")
    if judged is not None and judged < near_chance_below(int(about["classes"])):
        causes = likeliest_causes(about, result, run.rows(), experiment.recipe.schedule.steps)
        chance = 100 / int(about["classes"])
        warnings.append(
            f"the student is near chance: it agrees on {judged:.0f} %, one class alone has {chance:.0f} %; {causes}"
        )
    own = sum(one.seconds for one in record.rounds)
    ended = DistillResult(
        session=folder.path.name,
        directory=str(folder.path) if workspace.mirror is None else workspace.display_name(folder.name),
        run=experiment.run_id,
        run_directory=workspace.display_name(experiment.run_id),
        chosen=chosen.name,
        student=about["student"],
        student_parameters=int(about["student_parameters"]),
        teacher_parameters=int(about["teacher_parameters"]),
        figures=result.student,
        judged_agreement=judged,
        judged_on_own=final is not None and final.is_on_own(chosen.name),
        beats_control=beats,
        doubt=_doubt(record, final),
        warnings=warnings,
        recipe=str(folder.recipe),
        report=None,
        export=exported,
        candidates=_candidates(record, chosen, workspace),
        rounds=list(record.rounds),
        seconds=record.seconds,
        search_seconds=max(0.0, round(record.seconds - (result.seconds or own), 1)),
        notes=record.plan.notes,
    )
    record = replace(record, result=ended)
    folder.write(record)
    return with_page(folder, record)


def with_page(folder: SessionFolder, record: Record) -> Record:
    """Write the page of a finished session unless it is there, and return the record that names it, which is noted.

    The page is drawn from the record: a command that is killed between the two leaves that to the next one.
    """
    if not folder.page.is_file():
        keep_session_page(folder.path)
    if record.result is None or record.result.report is not None or not folder.page.is_file():
        return record
    record = replace(record, result=replace(record.result, report=str(folder.page)))
    folder.write(record)
    return record


def _beats_control(chosen: Member, record: Record, final: Verdict | None) -> bool | None:
    """Tell whether the student is better than its control by more than a standard error; None without one."""
    if final is None or chosen.control or chosen.name not in final.agreement:
        return None
    controls = [one.name for one in record.plan.members if one.control and one.name in final.agreement]
    if not controls:
        return None
    best = max(final.agreement[name] for name in controls)
    return final.agreement[chosen.name] > best + final.error


def _doubt(record: Record, final: Verdict | None) -> str | None:
    """Return why the choice is not to be relied on, by the last verdict before it was made."""
    verdicts = [one.verdict for one in record.rounds if one.verdict is not None]
    if verdicts:
        return verdicts[-1].doubt
    return None if final is None else final.doubt


def _candidates(record: Record, chosen: Member, workspace: Workspace) -> list[CandidateResult]:
    """Return what became of each candidate, those that were tried."""
    agreements = {
        name: value for one in record.rounds if one.verdict is not None for name, value in one.verdict.agreement.items()
    }
    tried = {name: step for one in record.rounds for name, step in one.steps.items()}
    found = []
    for member in record.plan.members:
        failure = record.failed.get(member.name)
        reason = None if failure is None else failure.reason
        if member.name == chosen.name:
            state, step = "chosen", member.experiment.recipe.schedule.steps
        elif member.name in tried or reason is not None:
            state, step = "failed" if reason else "dropped", tried.get(member.name, 0)
        elif member.base is not None:
            continue
        else:
            state, step = "planned", 0
        found.append(as_result(member, step=step, state=state, reason=reason, agreement=agreements.get(member.name)))
    return found


def _export(run: RunDirectory, folder: SessionFolder, workspace: Workspace) -> str | None:
    """Write the student so that it runs without raykd; where that cannot be, say why. What is there already stays."""
    if folder.export.is_dir() and any(folder.export.iterdir()):
        return str(folder.export)
    form = "onnx" if find_spec("onnx") is not None else "safetensors"
    try:
        export_run(run, folder.export, workspace.data, World.current(), form)
    except RaykdError as error:  # the student itself is there
        logger.warning("no export: %s", error)
        return None
    return str(folder.export)

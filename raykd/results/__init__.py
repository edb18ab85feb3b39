"""What runs, searches and the other verbs come to: plain data with names for every figure, and the JSON of it.

``to_dict`` is what ``--json`` prints and ``status.json`` keeps: keys with a slash, such as ``accuracy/top1``, and what
was not measured left out. A field without a default is always in it, be it as null.

Units: accuracy, agreement and expected calibration error in per cent; kl in nats; seconds of training.
"""

from raykd.results.base import Result
from raykd.results.blind import COVERAGE, why_not_judged
from raykd.results.breakdown import Breakdown, ConfidenceBin, Confusion, breakdowns_from_dict
from raykd.results.distill import CandidateResult, DistillPlan, DistillResult, RoundResult, Verdict
from raykd.results.export import FORMATS, ExportedModel, ExportResult
from raykd.results.image_statistics import MOST_MEANS, ImageStatistics
from raykd.results.plan import Plan, RunPlan, SubmissionPlan
from raykd.results.run import SELECTIONS, Evaluation, Figures, Measured, RunResult, SeedsResult
from raykd.results.search import (
    SearchRecord,
    SearchResult,
    TrialAtWork,
    TrialCounts,
    TrialFailure,
    TrialRecord,
    TrialResult,
)
from raykd.results.store import Dependent, RunUsage, StoredRun, StoredSearch, StoredTable, StoreUsage
from raykd.results.table import MeasuredCell, RunCounts, Spread, TableCell, TableResult, TableRow
from raykd.results.teacher import Inspection, LayerWidth, MethodVerdict, Ranking, StatisticsResult, SyntheticSet

__all__ = [
    "Breakdown",
    "CandidateResult",
    "COVERAGE",
    "ConfidenceBin",
    "Confusion",
    "Dependent",
    "DistillPlan",
    "DistillResult",
    "Evaluation",
    "ExportResult",
    "ExportedModel",
    "FORMATS",
    "Figures",
    "ImageStatistics",
    "Inspection",
    "LayerWidth",
    "MOST_MEANS",
    "Measured",
    "MeasuredCell",
    "MethodVerdict",
    "Plan",
    "Ranking",
    "Result",
    "RoundResult",
    "RunCounts",
    "RunPlan",
    "RunResult",
    "RunUsage",
    "SELECTIONS",
    "SearchRecord",
    "SearchResult",
    "SeedsResult",
    "Spread",
    "StatisticsResult",
    "StoreUsage",
    "StoredRun",
    "StoredSearch",
    "StoredTable",
    "SubmissionPlan",
    "SyntheticSet",
    "TableCell",
    "TableResult",
    "TableRow",
    "TrialAtWork",
    "TrialCounts",
    "TrialFailure",
    "TrialRecord",
    "TrialResult",
    "Verdict",
    "breakdowns_from_dict",
    "why_not_judged",
]

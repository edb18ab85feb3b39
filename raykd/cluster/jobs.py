"""Jobs on a running cluster, through Ray's job submission: the same run is never there twice."""

import asyncio
import logging
import shlex
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from raykd.cluster.dashboard import PRECISION, RUNS, is_loopback
from raykd.cluster.ray_settings import token_source
from raykd.errors import InProgress, SetupError, UsageError, did_you_mean
from raykd.reporting.follow import find_step

logger = logging.getLogger(__name__)

RUN = "run"
"""Metadata of a job: which run, search or table it is about."""
_ID_PREFIX = "raykd-"
_ANSWER_SECONDS = 5.0
_POLL_SECONDS = 0.5
_STOP_SECONDS = 90.0
_RETRY_DELAYS = (0.5, 1, 2, 4, 8)  # seconds between tries in a row of a connection that was lost
_CONNECTION_ERRORS = (
    OSError,
    RuntimeError,
    aiohttp.ClientError,
)  # what Ray's client raises then; those of requests are OSErrors
_STOPPED_EXIT_CODE = 130
_MAX_MESSAGE = 200  # characters of an answer that may be a page
# They log uploads and sockets, which are no user's concern; the last two have levels of their own.
_VERBOSE_LOGGERS = ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")


@dataclass(frozen=True)
class SubmittedJob:
    """A job that raykd submitted, in the state that the cluster last reported."""

    id: str
    run: str
    status: str
    metadata: Mapping[str, str]
    started: str | None
    ended: str | None
    message: str
    exit_code: int | None
    entrypoint: str

    @property
    def command(self) -> str:
        """Return the command of raykd that it runs, with its arguments but for where."""
        words = shlex.split(self.entrypoint)
        inner = words[words.index("raykd") + 1 :] if "raykd" in words else words
        return shlex.join(inner[: inner.index("--cluster")] if "--cluster" in inner else inner)

    @property
    def runs(self) -> frozenset[str]:
        """Return the ids of the runs it trains, which no other job may train at the same time."""
        return frozenset(self.metadata.get(RUNS, self.run).splitlines())

    @property
    def is_over(self) -> bool:
        """Tell whether the job has ended, in whatever way."""
        return bool(JobStatus(self.status).is_terminal())

    @property
    def code(self) -> int:
        """Return the exit code of a job that is over: its process's, where it had one."""
        if self.status == JobStatus.SUCCEEDED:
            return 0
        return _STOPPED_EXIT_CODE if self.status == JobStatus.STOPPED else self.exit_code or 1


class Jobs:
    """The jobs of one cluster, at the address of its dashboard."""

    def __init__(self, url: str) -> None:
        """Connect.

        Raises:
            SetupError: if no dashboard answers, or it refuses the token.
        """
        self._url = url
        for name in _VERBOSE_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        _warn_of_open_dashboard(url)
        with self._explaining_failures():
            try:
                self._client = JobSubmissionClient(url)
            except (KeyError, TypeError):
                raise RuntimeError("it tells no version of Ray") from None

    def submit(
        self, run: str, entrypoint: str, runtime: dict[str, Any], metadata: dict[str, str]
    ) -> tuple[SubmittedJob, bool]:
        """Submit a job for a run, unless one that trains it is running; return the job, and whether it is new.

        Raises:
            InProgress: if a job with other options, or in another precision, trains one of the runs that ``metadata``
                names.
            SetupError: if the cluster takes no such job.
        """
        jobs = self.all()
        earlier = [job for job in jobs if job.run == run]
        running = [job for job in jobs if not job.is_over]
        for job in reversed(running):
            if job.run == run:
                return _join(job, metadata), False
        for job in running:
            if shared := job.runs.intersection(metadata[RUNS].splitlines()):
                raise _in_progress(job, f"trains {min(shared)} too, but was submitted with other options")
        name = f"{_ID_PREFIX}{run}" + (f"-{len(earlier) + 1}" if earlier else "")
        for delay in (*_RETRY_DELAYS, None):
            with self._explaining_failures():
                try:
                    self._client.submit_job(
                        entrypoint=entrypoint,
                        submission_id=name,
                        runtime_env=runtime,
                        metadata={**metadata, RUN: run},
                    )
                    break
                except RuntimeError as error:
                    if "already exists" in str(error):  # somebody was faster with the same run
                        return _join(self.find(name), metadata), False
                    if delay is None or "try again later" not in str(error):  # as a head says that has just started
                        raise SetupError(f"{self._url} takes no such job: {_last_line(error)}") from None
                    time.sleep(delay)
        return self.find(name), True

    def all(self) -> list[SubmittedJob]:
        """Return the jobs that raykd submitted, in the order of their start."""
        with self._explaining_failures():
            jobs = [
                self._read_job(details)
                for details in self._client.list_jobs()
                if (details.submission_id or "").startswith(_ID_PREFIX)
            ]
        return sorted(jobs, key=lambda job: (job.started or "", len(job.id), job.id))

    def find(self, name: str) -> SubmittedJob:
        """Return the last job of a run, by the run's id, the beginning of it, or the job's own id.

        Raises:
            UsageError: if there is none, or several runs begin so.
        """
        jobs = self.all()
        for match in (lambda job: name in (job.id, job.run), lambda job: job.run.startswith(name)):
            matching = [job for job in jobs if match(job)]
            if len({job.run for job in matching}) > 1:
                raise UsageError(
                    f"several runs begin with {name!r}: {', '.join(sorted({job.run for job in matching}))}"
                )
            if matching:
                return matching[-1]
        hint = did_you_mean(name, [job.run for job in jobs])
        raise UsageError(f"no job of a run {name!r} at {self._url}{hint}; `raykd jobs list` shows all")

    def logs(self, job: SubmittedJob) -> str:
        """Return the output of a job so far."""
        with self._explaining_failures():
            return str(self._client.get_job_logs(job.id))

    def step(self, job: SubmittedJob) -> str | None:
        """Return how far a job at work is, as ``109/600, ETA 1:54``; None where its output is lost or silent."""
        if job.status != JobStatus.RUNNING:
            return None
        try:
            return find_step(self.logs(job))
        except SetupError:  # the log of one job, as of a node that is gone: all else about the jobs is known
            return None

    def follow(self, job: SubmittedJob, write: Callable[[str], None]) -> int:
        """Pass a job's output to ``write`` until it ends; return its exit code. A lost connection is made again.

        Raises:
            SetupError: if the cluster does not answer several times in a row.
        """
        written, delays = 0, iter(_RETRY_DELAYS)

        async def tail() -> None:
            nonlocal written, delays
            received = 0  # a new connection begins with the first line again
            async for text in self._client.tail_job_logs(job.id):
                new, received = text[max(0, written - received) :], received + len(text)
                if new:
                    write(new)
                    written = received
                if not job.is_over:  # else there is no more to come, however often the connection is cut
                    delays = iter(_RETRY_DELAYS)

        with self._explaining_failures():
            while True:
                delay: float | None = _POLL_SECONDS
                try:
                    job = self._read_job(self._client.get_job_info(job.id))
                    if job.status != JobStatus.PENDING:
                        asyncio.run(tail())
                    if job.is_over:  # before its log was read to the end
                        return job.code
                    delays = iter(_RETRY_DELAYS)
                except _CONNECTION_ERRORS as error:
                    delay, reason = next(delays, None), _last_line(error)[:_MAX_MESSAGE]
                if delay is not None:
                    time.sleep(delay)
                elif job.is_over:
                    logger.warning("the rest of what job %s said cannot be read (%s)", job.id, reason)
                    return job.code
                else:
                    raise SetupError(f"{self._url} tells no more of job {job.id} ({reason}), which may go on")

    def stop(self, job: SubmittedJob) -> SubmittedJob:
        """Ask a job to save and stop, and wait until it has.

        Raises:
            SetupError: if it does not.
        """
        with self._explaining_failures():
            self._client.stop_job(job.id)
        deadline = time.monotonic() + _STOP_SECONDS
        while not (state := self._refresh(job)).is_over:
            if time.monotonic() > deadline:
                raise SetupError(
                    f"job {job.id} is {state.status} still, {_STOP_SECONDS:.0f} s after it was asked to stop; Ray "
                    "cannot stop one that waits for resources: add them, or end the cluster"
                )
            time.sleep(_POLL_SECONDS)
        return state

    def _refresh(self, job: SubmittedJob) -> SubmittedJob:
        with self._explaining_failures():
            return self._read_job(self._client.get_job_info(job.id))

    def _read_job(self, details: Any) -> SubmittedJob:
        return SubmittedJob(
            id=details.submission_id,
            run=(details.metadata or {}).get(RUN, details.submission_id.removeprefix(_ID_PREFIX)),
            status=str(details.status.value),
            metadata=details.metadata or {},
            started=_iso_time(details.start_time),
            ended=_iso_time(details.end_time),
            message=details.message or "",
            exit_code=details.driver_exit_code,
            entrypoint=details.entrypoint or "",
        )

    @contextmanager
    def _explaining_failures(self) -> Iterator[None]:
        """Within: a failure to reach the cluster becomes a SetupError of one line."""
        try:
            yield
        except AuthenticationError:
            source = token_source()
            reason = (
                f"the token of {source} is not the cluster's" if source else "it asks for a token, and there is none"
            )
            raise SetupError(
                f"{self._url} refuses: {reason}; set RAY_AUTH_TOKEN_PATH to a copy of the cluster's token file "
                "(`ray get-auth-token` prints it on its head node)"
            ) from None
        except (ConnectionError, requests.ConnectionError, requests.Timeout):
            raise SetupError(
                f"nothing answers at {self._url}: does the cluster run, and is its dashboard forwarded to here? "
                "(`ray dashboard FILE`, `kubectl port-forward`; `dashboard` in the cluster file)"
            ) from None
        except (RuntimeError, requests.RequestException) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:_MAX_MESSAGE]
            raise SetupError(
                f"{self._url} answers, but not as Ray's dashboard should ({reason}): is the right port forwarded, and "
                "its cluster well?"
            ) from None


def _warn_of_open_dashboard(url: str) -> None:
    """Warn of an address that takes jobs from anybody, or shows the token to who listens."""
    parts = urlsplit(url)
    if is_loopback(url):
        return
    try:
        urllib.request.urlopen(f"{url}/api/version", timeout=_ANSWER_SECONDS).close()
    except (OSError, ValueError):  # refused, as it should be; or not there, which is told soon
        if parts.scheme == "http" and token_source() is not None:
            logger.warning(
                "%s is not encrypted: who listens on the way reads the token; forward the port over SSH", url
            )
        return
    logger.warning(
        "%s takes jobs from anybody who reaches it, and a job is any program: start Ray with RAY_AUTH_MODE=token", url
    )


def _join(job: SubmittedJob, metadata: Mapping[str, str]) -> SubmittedJob:
    """Return a job at work for the same run; refuse it where it trains in another precision."""
    wanted = metadata.get(PRECISION)
    if (precision := job.metadata.get(PRECISION, wanted)) != wanted:
        raise _in_progress(job, f"trains it in {precision}, and not in {wanted}")
    return job


def _in_progress(job: SubmittedJob, reason: str) -> InProgress:
    return InProgress(
        f"job {job.id} {reason}: wait for its end (`raykd jobs logs -f {job.run}`) or end it "
        f"(`raykd jobs stop {job.run}`), then submit again"
    )


def _iso_time(milliseconds: int | None) -> str | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds") if milliseconds else None


def _last_line(error: BaseException) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)

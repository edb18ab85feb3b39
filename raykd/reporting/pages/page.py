"""A page: a template filled, with its style, its script and nothing else from anywhere.

All that is filled in is escaped. The policy in the page lets a browser run the one script that bears the sum given
there, and load nothing at all: whatever a run's files say, no request leaves the page.
"""

import base64
import hashlib
import json
import time
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import raykd
from raykd.errors import printable

_FOLDER = "templates"


def render(template: str, **values: Any) -> str:
    """Return the page of a template (``run``, ``search``, ...), complete."""
    environment = _environment()
    style, script = (_own_text(environment, name) for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template(f"{template}.html.j2").render(
        css=Markup(style),
        script=Markup(script),
        policy=policy,
        version=raykd.__version__,
        written=format_time(time.time()),
        **values,
    )


def format_time(seconds: float) -> str:
    """Write a moment, in seconds since the epoch, to the minute."""
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):  # of a number in a file that is no moment
        return "at a time unknown"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("raykd.reporting.pages", _FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.policies["json.dumps_function"] = _dump_json
    return environment


def _shown(value: Any) -> Any:
    """Write out control characters, of which HTML has none, in whatever is not markup of ours."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _dump_json(value: Any, **how: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False, **how)


def _own_text(environment: Environment, name: str) -> str:
    assert environment.loader is not None, "it is made with one"
    return environment.loader.get_source(environment, name)[0]

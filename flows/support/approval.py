"""Wait until somebody fills in a form in the UI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from prefect import runtime
from prefect.flow_runs import pause_flow_run, suspend_flow_run
from prefect.input import RunInput, create_flow_run_input, read_flow_run_input

_DAY = 24 * 3600
Json = TypeVar("Json", str, dict[str, Any])
Form = TypeVar("Form", bound=RunInput)


def once_per_run(key: str, make: Callable[[], Json]) -> Json:
    """What `make` returned when this run began first; the API keeps it, so that a run may go on on another machine.

    A run that waited for an answer begins anew: what was planned, and then approved, must not be planned again with a
    backup that has come in since.
    """
    if (known := read_flow_run_input(key)) is not None:
        return cast(Json, known)
    made = make()
    create_flow_run_input(key, made)
    return made


def wait_for_answer(form: type[Form], question: str) -> Form:
    """Show the question, in Markdown, above the form.

    A deployed run ends meanwhile, and begins anew when the form is filled in: what it did before must be
    repeatable, or done `once_per_run`.
    """
    # Defaults given here would replace the fields, and their descriptions with them.
    asked = form.with_initial_data(description=question)
    if runtime.deployment.id:
        answer = suspend_flow_run(wait_for_input=asked, timeout=_DAY, key="approve")
    else:
        answer = pause_flow_run(wait_for_input=asked, timeout=_DAY, key="approve")
    assert isinstance(answer, form)
    return answer

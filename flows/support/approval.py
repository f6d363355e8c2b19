"""Wait for a person who looks at a plan and agrees, or does not."""

from __future__ import annotations

from typing import Any, TypeVar

from prefect import runtime
from prefect.flow_runs import pause_flow_run, suspend_flow_run
from prefect.input import RunInput

T = TypeVar("T", bound=RunInput)
_DAY = 24 * 3600


def ask(form: type[T], description: str, **initial: Any) -> T:
    """The form as somebody filled it in. A deployed run ends meanwhile, and begins anew when it is filled in."""
    prepared = form.with_initial_data(description=description, **initial)
    if runtime.deployment.id:
        answer = suspend_flow_run(wait_for_input=prepared, timeout=_DAY, key="approve")
    else:
        answer = pause_flow_run(wait_for_input=prepared, timeout=_DAY, key="approve")
    assert isinstance(answer, form)
    return answer

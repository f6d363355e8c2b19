"""Wait until somebody fills in a form in the UI."""

from __future__ import annotations

from typing import TypeVar

from prefect import runtime, task
from prefect.cache_policies import RUN_ID, TASK_SOURCE
from prefect.flow_runs import pause_flow_run, suspend_flow_run
from prefect.input import RunInput

_DAY = 24 * 3600
Form = TypeVar("Form", bound=RunInput)


@task(cache_policy=TASK_SOURCE + RUN_ID, persist_result=True, result_serializer="json")
def first_choice(backup_id: str) -> str:
    """The backup that this run planned with when it began: one that waited plans anew, and newer ones may have come."""
    return backup_id


def wait_for_answer(form: type[Form], question: str) -> Form:
    """Show the question, in Markdown, above the form.

    A deployed run ends meanwhile, and begins anew when the form is filled in: what it did before must be
    repeatable, or stored as a task's result.
    """
    # Defaults given here would replace the fields, and their descriptions with them.
    asked = form.with_initial_data(description=question)
    if runtime.deployment.id:
        answer = suspend_flow_run(wait_for_input=asked, timeout=_DAY, key="approve")
    else:
        answer = pause_flow_run(wait_for_input=asked, timeout=_DAY, key="approve")
    assert isinstance(answer, form)
    return answer

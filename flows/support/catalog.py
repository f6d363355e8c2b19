"""Publish what the repository holds, after whatever changed it."""

from __future__ import annotations

import asyncio

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from flows.support.catalog_reports import catalog_report, catalog_summary, storage_report, storage_summary
from flows.support.publishing import publish_report
from flows.support.settings import backup_manager


def publish_catalog(repository: str, *, storage: bool = True) -> None:
    """Store the newest versions of the artifacts `catalog-<cluster>` and, where asked for, `storage-<cluster>`.

    The work before is done and durable: whatever goes wrong here is a failed task and a warning, and the run goes on.
    """
    state = _publish_catalog(repository, storage, return_state=True)
    if not state.is_completed():
        get_run_logger().warning("the catalog could not be published: %s", state.message)


@task(task_run_name="publish-catalog", cache_policy=NO_CACHE, persist_result=False)
def _publish_catalog(repository: str, storage: bool) -> None:
    manager = backup_manager("", repository)
    if not storage:
        catalog = asyncio.run(manager.catalog())
    else:
        found = asyncio.run(manager.stats())
        catalog = found.catalog
        report = storage_report(catalog.cluster, found.storage, catalog.at)
        publish_report("storage", catalog.cluster, report, storage_summary(found.storage))
    publish_report("catalog", catalog.cluster, catalog_report(catalog), catalog_summary(catalog))

"""What the server says while it sends a backup, as findings.

Texts may be translated by the server's locale, so an unknown WARNING counts as degrading: it is never
silently fine.
"""

from __future__ import annotations

import re

from pgproof.model.report import Finding

_CHECKSUM = re.compile(r'in file "(?:\./)?(?P<path>[^"]+)"')
_TOTAL = re.compile(r'file "(?:\./)?(?P<path>[^"]+)" has a total of')


def finding_for(severity: str, message: str) -> Finding | None:
    """A finding, or None for a notice that tells nothing about the backup. `severity` is untranslated."""
    if "skipping special file" in message:
        return Finding("skipped-file", f"not in the backup: {message}", True)
    if "checksum verification fail" in message or "could not verify checksum" in message:
        return Finding("page-checksum", message, True)
    if severity == "WARNING":
        return Finding("notice", message, True)
    return None


def damaged_file(finding: Finding) -> str | None:
    """The file that a page-checksum finding names, relative to the data directory."""
    if finding.kind != "page-checksum":
        return None
    found = _CHECKSUM.search(finding.message) or _TOTAL.search(finding.message)
    return found["path"] if found else None

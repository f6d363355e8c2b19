#!/bin/sh
# Install what `make bench` compares us with: Debian's pgbackrest and zstd. Says only what it changes.
# It needs PostgreSQL 15 as scripts/setup.sh installs it; nothing here makes a cluster or runs as a service.
set -eu

say() { printf 'setup: %s\n' "$*"; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

missing=
for program in pgbackrest zstd openssl; do
    command -v "$program" >/dev/null || missing="$missing $program"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null || ! as_root true 2>/dev/null; then
    say "not installed:$missing; the benchmark leaves out the comparisons that need them"
    exit 0
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
say "installing$missing"
# shellcheck disable=SC2086 # a list of words
if ! {
    as_root apt-get update &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $missing
} >"$log" 2>&1; then
    cat "$log" >&2
    say "failed: installing$missing" >&2
    exit 1
fi

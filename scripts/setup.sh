#!/bin/sh
# Prepare a fresh machine for developing and testing: needs python3 (3.11 or newer) and, for the
# system packages, Debian with apt as root or with passwordless sudo. Says only what it changes.
set -eu
cd "$(dirname "$0")/.."

UV_VERSION=0.13.8

say() { printf 'setup: %s\n' "$*"; }

fail() {
    say "$*" >&2
    exit 1
}

is_debian() { [ -f /etc/debian_version ] && command -v apt-get >/dev/null; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

can_install() { is_debian && as_root true 2>/dev/null; }

# Run a talkative command; show what it said only when it fails.
quietly() {
    log=$(mktemp)
    if "$@" >"$log" 2>&1; then
        rm -f "$log"
    else
        cat "$log" >&2
        rm -f "$log"
        fail "failed: $*"
    fi
}

apt_install() {
    quietly as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --no-install-recommends "$@"
}

has_postgresql() {
    for initdb in /usr/lib/postgresql/*/bin/initdb; do
        [ -x "$initdb" ] && return 0
    done
    return 1
}

# Debian 12 has version 15, which the tests want beside 17 and 18 (those come as wheels).
lacks_postgresql() {
    if is_debian && [ "$(. /etc/os-release && echo "${VERSION_ID:-}")" = 12 ]; then
        [ ! -x /usr/lib/postgresql/15/bin/initdb ]
    else
        ! has_postgresql
    fi
}

# The Debian package would create and start a cluster `main`; the tests make their own.
install_postgresql() {
    package=postgresql-15
    if ! apt-cache show "$package" >/dev/null 2>&1; then
        say "this release has no $package; the tests that need version 15 will fail"
        package=postgresql
    fi
    say "installing $package without its cluster"
    apt_install postgresql-common
    override=/etc/postgresql-common/createcluster.d/pgproof-setup.conf
    as_root mkdir -p "${override%/*}"
    echo 'create_main_cluster = false' | as_root tee "$override" >/dev/null
    trap 'as_root rm -f "$override"' EXIT
    apt_install "$package"
    as_root rm -f "$override"
    trap - EXIT
}

install_system_packages() {
    packages=
    python3 -c 'import ensurepip, venv' 2>/dev/null || packages="$packages python3-venv"
    command -v bwrap >/dev/null || packages="$packages bubblewrap"
    command -v fusermount3 >/dev/null || packages="$packages fuse3"
    command -v systemd-analyze >/dev/null || packages="$packages systemd"
    command -v cc >/dev/null || packages="$packages gcc libc6-dev"
    if [ "${SETUP_BROWSER:-}" = 1 ] && ! command -v chromium >/dev/null; then
        packages="$packages chromium"
    fi
    if [ -z "$packages" ] && ! lacks_postgresql; then
        return
    fi
    say "updating apt's package lists"
    quietly as_root apt-get update
    if [ -n "$packages" ]; then
        say "installing$packages"
        # shellcheck disable=SC2086 # a list of words
        apt_install $packages
    fi
    if lacks_postgresql; then install_postgresql; fi
}

report_missing_packages() {
    if lacks_postgresql; then
        say "not installed: PostgreSQL 15; the tests that need it will fail (17 and 18 come as wheels)"
    fi
    command -v fusermount3 >/dev/null || say "not installed: fuse3; the power-cut tests will fail"
    command -v systemd-analyze >/dev/null || say "not installed: systemd; the tests of the units will fail"
    command -v cc >/dev/null || say "not installed: a C compiler; the tests of a clock that is moved will fail"
    command -v bwrap >/dev/null ||
        say "not installed: bubblewrap; scratch servers run without namespaces of their own"
    if [ "${SETUP_BROWSER:-}" = 1 ] && ! command -v chromium >/dev/null; then
        say "not installed: chromium; the browser tests will fail"
    fi
}

install_uv() {
    if [ "$(.uv/bin/uv --version 2>/dev/null | cut -d' ' -f2)" = "$UV_VERSION" ]; then
        return
    fi
    say "installing uv $UV_VERSION into .uv"
    quietly python3 -m venv --clear .uv
    quietly .uv/bin/python -m pip install --disable-pip-version-check "uv==$UV_VERSION"
}

install_python_packages() {
    [ -x .venv/bin/python ] || say "installing the Python packages into .venv"
    # An activated environment of another project is not ours. Inexact: what a campaign is using stays.
    # Compiled, because each flow run and each command is a process of its own: `import prefect` takes five seconds where
    # Python may not keep what it has compiled (PYTHONDONTWRITEBYTECODE, a directory of another user), and two where it is there.
    # shellcheck disable=SC2086 # a list of words
    env -u VIRTUAL_ENV UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=.venv UV_COMPILE_BYTECODE=1 \
        .uv/bin/uv sync --quiet --locked --inexact --all-extras ${SETUP_GROUPS:-} --python python3
    .venv/bin/python -m compileall -q pgproof core blocks flows deployments scripts campaigns tests
}

command -v python3 >/dev/null || fail "python3 is not installed; install Python 3.11 or newer"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "python3 is $(python3 --version); install Python 3.11 or newer"

if can_install; then install_system_packages; else report_missing_packages; fi
install_uv
install_python_packages

# Shared by the programs in this folder: finding Python, installing missing packages, making environments from the lock.
# Invariant: nothing is installed twice, every long step says what it does, and a second run needs no network.
# shellcheck shell=bash

umask 022 # an environment built with a restrictive umask would be unusable for other users
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)

say() { printf '== %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Succeeds if as_root will work without asking for a password that nobody is there to enter.
can_be_root() {
    [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; }
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# apt_install REASON PACKAGE...: installs the missing ones, without starting or enabling their services.
apt_install() {
    local reason=$1 package missing=() policy=/usr/sbin/policy-rc.d unit made_policy= failed=
    shift
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || { say "there is no apt-get: install ${missing[*]} ($reason) by hand"; return 1; }
    can_be_root || { say "root or sudo is needed to install ${missing[*]} ($reason)"; return 1; }
    say "installing ${missing[*]} with apt ($reason)"
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
        as_root chmod 0755 $policy
        made_policy=1
    fi
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
    { as_root "${apt[@]}" update && as_root "${apt[@]}" install -y --no-install-recommends "${missing[@]}"; } \
        </dev/null >&2 || failed=1
    [ -z "$made_policy" ] || as_root rm -f $policy
    for package in "${missing[@]}"; do # services that the tests start themselves must not start at boot
        for unit in $(dpkg -L "$package" 2>/dev/null | sed -n 's,.*/systemd/system/\([^/@]*\.\(service\|timer\)\)$,\1,p'); do
            as_root systemctl --quiet disable "$unit" >/dev/null 2>&1 || true
        done
    done
    [ -z "$failed" ]
}

# interpreter COMMAND: prints the path of the interpreter behind COMMAND (resolving shims) if it works and is >= 3.11.
interpreter() {
    command -v "$1" >/dev/null &&
        "$1" -Ic 'import os, sys; sys.version_info >= (3, 11) or sys.exit(1); print(os.path.realpath(sys.executable))' 2>/dev/null
}

# Prints the first suitable interpreter. The distribution's own is preferred: it gets security updates, and one built
# from source without profile-guided optimization may run at half the speed.
find_python() {
    local name
    for name in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
        interpreter "$name" && return 0
    done
    return 1
}

# A fingerprint of what an environment was built from: requirements file, metadata, interpreter and location.
_fingerprint() { # VENV REQUIREMENTS
    {
        cat "$root/pyproject.toml" "$root/requirements/$2"
        "$1/bin/python" -Ic 'import sys; print(sys.version, sys.prefix)' 2>/dev/null
        echo "$root"
    } | sha256sum
}

_stale() { # VENV REQUIREMENTS...: prints the files whose present version isn't installed in VENV
    local venv=$1 file
    shift
    for file in "$@"; do
        [ "$(cat "$venv/.dicomd-$file" 2>/dev/null)" = "$(_fingerprint "$venv" "$file")" ] || echo "$file"
    done
}

# environment VENV PYTHON REQUIREMENTS...: installs dicomd and the locked packages of requirements/REQUIREMENTS in VENV.
# If PYTHON is empty, VENV keeps its own interpreter, or gets the first suitable one.
environment() {
    local venv=$1 python=$2
    shift 2
    [ -n "$(_stale "$venv" "$@")" ] || return 0
    mkdir -p "$root/.cache" || die "cannot write to $root"
    (
        flock -n 9 || { say "waiting for another program that is building an environment here" && flock -w 900 9; } ||
            die "the other program did not finish in 15 minutes"
        # Check again: the other program may have built this one.
        [ -z "$(_stale "$venv" "$@")" ] || _build_environment "$venv" "$python" "$@"
    ) 9>"$root/.cache/environment.lock" || exit 1
}

_build_environment() { # VENV PYTHON REQUIREMENTS...
    local venv=$1 python=$2 version made file stale
    shift 2
    [ -n "$python" ] || python=$(interpreter "$venv/bin/python") || python=$(find_python) || {
        apt_install "dicomd is written in Python" python3 >&2 && python=$(find_python)
    } || die "no Python >= 3.11 found: on Debian 12 and 13, install the package python3"
    version=$("$python" -Ic 'import sys; print("%d.%d" % sys.version_info[:2])')
    if ! "$python" -Ic 'import venv, ensurepip' 2>/dev/null; then
        apt_install "python$version cannot create virtual environments without it" "python$version-venv" ||
            die "python$version-venv is missing and could not be installed (for the reason above): as root, apt install python$version-venv"
    fi
    # An environment made with another interpreter, or one that was moved, cannot be repaired: start over.
    made=$("$python" -Ic 'import sys; print(sys.version, sys.argv[1])' "$venv")
    if [ "$(cat "$venv/.dicomd-made" 2>/dev/null)" != "$made" ] || ! "$venv/bin/python" -Ic 'import pip' 2>/dev/null; then
        say "creating ${venv#"$root"/} with Python $version ($python)"
        "$python" -m venv --clear "$venv" >&2 || die "could not create $venv"
        printf '%s' "$made" >"$venv/.dicomd-made"
    fi
    mapfile -t stale < <(_stale "$venv" "$@")
    set -- "${stale[@]}"
    rm -f "${@/#/$venv/.dicomd-}"
    say "installing the locked packages of ${*/#/requirements/} into ${venv#"$root"/} (checked against their hashes)"
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off --require-hashes \
        "${@/#/--requirement=$root/requirements/}" </dev/null >&2 || die "could not install the locked packages"
    say "installing dicomd itself (editable)"
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --quiet --no-index --no-deps \
        --no-build-isolation --editable "$root" </dev/null >&2 || die "could not install dicomd"
    for file in "$@"; do
        _fingerprint "$venv" "$file" >"$venv/.dicomd-$file"
    done
}

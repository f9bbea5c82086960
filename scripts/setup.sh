# shellcheck shell=bash
# Sourced by scripts/demo, scripts/test and .ci/run, which call:  set_up demo|test|dev
# It installs what is missing (system libraries, .venv, packages), says so, and is quick when nothing is.

checkout="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null && pwd -P)"
venv="$checkout/.venv"
log="$venv/setup.log"

# What a Qt window on a virtual screen loads. Names without the suffix "t64" that newer releases add.
system_libraries=(
    xvfb xauth
    libegl1 libgl1 libgl1-mesa-dri
    libxcb-cursor0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-render-util0 libxcb-shape0 libxkbcommon-x11-0
    libdbus-1-3 libfontconfig1 libglib2.0-0 libgssapi-krb5-2
)

# torch and torchvision come in pairs: with only one of them pinned, pip replaces the other.
cpu_torch=("torch==2.13.0+cpu" "torchvision==0.28.0")
cpu_index="https://download.pytorch.org/whl/cpu"

set_up() {
    # Without the trap, a Ctrl-C that pip handles itself would look like an ordinary failure.
    trap 'say "Stopped. The next run goes on from here."; exit 130' INT TERM
    lock
    install_system_libraries
    if [[ "$(cat "$venv/ready-$1" 2>/dev/null)" != "$(fingerprint)" ]]; then
        make_venv
        install_packages "$1"
        mark_ready "$1"
    fi
    unlock
    trap - INT TERM
}

say() { printf '%s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# Two runs at once would write into the same .venv.
lock() {
    [[ -w "$checkout" ]] && command -v flock >/dev/null || return 0
    exec 9>"$checkout/.venv.lock"
    flock -n 9 && return 0
    say "Another set-up of this checkout is running; waiting for it ..."
    flock 9
}

# The program that starts next must not inherit the lock.
unlock() { exec 9>&-; }

install_system_libraries() {
    command -v dpkg-query >/dev/null || return 0 # not Debian or Ubuntu: Qt names what it misses
    local installed library missing=()
    installed="$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p' | sed 's/t64$//')"
    for library in "${system_libraries[@]}"; do
        grep -qxF -- "$library" <<<"$installed" || missing+=("$library")
    done
    ((${#missing[@]} == 0)) || apt_install "${missing[@]}"
}

apt_install() {
    command -v apt-get >/dev/null || die "System packages are missing and there is no apt-get to install them: $*"
    local as_root=(env)
    if ((EUID != 0)); then
        if sudo -n true 2>/dev/null; then
            as_root=(sudo -n env)
        elif [[ -t 0 ]] && command -v sudo >/dev/null; then
            as_root=(sudo env) # asks for the password
        else
            die "System packages are missing; an administrator can add them: apt-get install -y $*"
        fi
    fi
    say "Installing system packages: $* ..."
    local apt_get=("${as_root[@]}" DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120)
    # A failed update may be one broken source of many; whether it matters, the install shows.
    "${apt_get[@]}" update >/dev/null || true
    "${apt_get[@]}" install -y --no-install-recommends "$@" >/dev/null ||
        die "apt-get could not install them (see above). To try by hand: apt-get update && apt-get install -y $*"
}

# Sets `python` to one that is new enough and can make virtual environments.
find_python() {
    local candidate without_venv=""
    for candidate in python3.13 python3.12 python3.11 python3; do
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        python="$candidate"
        "$python" -c 'import ensurepip, venv' 2>/dev/null && return 0
        without_venv="${without_venv:-$candidate}"
    done
    [[ -n "$without_venv" ]] ||
        die "Python 3.11 or newer is needed, found $(python3 --version 2>/dev/null || echo none). On Debian 12, Ubuntu 24.04 or newer: apt-get install -y python3 python3-venv"
    python="$without_venv"
    # Debian keeps ensurepip in a package of its own, one per Python version.
    apt_install "$("$python" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')"
}

make_venv() {
    # In a moved or copied .venv the programs still name the old place.
    "$venv/bin/python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null &&
        grep -qF "$venv/bin/python" "$venv/bin/pip" && return 0
    find_python
    say "Making a virtual environment in $venv with $("$python" --version) ..."
    "$python" -m venv --clear "$venv" || die "$python could not make a virtual environment (see above)."
}

install_packages() {
    rm -f "$venv"/ready-*
    : >"$log"
    # Older pip knows no dependency groups (--group).
    pip_install "pip>=25.1" || pip_failed "a recent pip"
    install_cpu_torch
    local wanted=(-e ".[all]")
    [[ "$1" == demo ]] || wanted+=(--group "$1")
    say "Installing napari-maskcal, napari and what they need (a few minutes the first time) ..."
    (cd "$checkout" && pip_install "${wanted[@]}") || pip_failed "napari-maskcal"
}

# On Linux the torch of PyPI is a CUDA build of several gigabytes, of no use without a GPU.
install_cpu_torch() {
    [[ "$(uname -sm)" == "Linux x86_64" ]] || return 0
    nvidia-smi >/dev/null 2>&1 && return 0
    say "No NVIDIA GPU found: installing torch for the CPU (about 200 MB) ..."
    # --no-deps: nothing else is looked up on that index, which keeps the wait short where it cannot be reached.
    pip_install --no-deps --retries 1 --timeout 10 --extra-index-url "$cpu_index" "${cpu_torch[@]}" && return 0
    say "The CPU build cannot be had; installing the standard torch instead (several gigabytes) ..."
    pip_install "${cpu_torch[@]/+cpu/}" || pip_failed "torch"
}

pip_install() { "$venv/bin/python" -m pip install --disable-pip-version-check "$@" >>"$log" 2>&1; }

pip_failed() {
    tail -n 12 "$log" >&2
    die "pip could not install $1: is the network there, and space on the disk? The whole log: $log"
}

# Changes whenever the environment may no longer fit. The path is part of it: see make_venv.
fingerprint() {
    { "$venv/bin/python" --version 2>&1 && cat "$checkout/pyproject.toml" "$checkout/scripts/setup.sh" && echo "$checkout"; } |
        cksum
}

# dev holds all of test, and test all of demo.
mark_ready() {
    local level
    for level in demo test dev; do
        fingerprint >"$venv/ready-$level"
        [[ "$level" != "$1" ]] || break
    done
}

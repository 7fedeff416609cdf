# Sourced by start and test, from the project's root.

find_python() {
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "Python 3.11 or newer is needed. On Debian or Ubuntu: sudo apt install python3 python3-venv" >&2
    echo "Or name one that you have: PYTHON=/path/to/python3.11 $0" >&2
    return 1
}

# ready_venv REQUIREMENT: make .venv and install the project into it, unless that is done for this pyproject.toml.
ready_venv() {
    wanted="$1 $(cksum <pyproject.toml) $PWD"
    stamp=.venv/installed
    # What the tests need contains what the program needs.
    if [ -x .venv/bin/python ] && grep -qxF -e "$wanted" -e ".[dev] ${wanted#* }" "$stamp" 2>/dev/null; then
        return
    fi
    if [ ! -x .venv/bin/python ] || [ ! -x .venv/bin/pip ]; then
        python=$(find_python)
        if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
            version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
            echo "$python cannot make virtual environments. On Debian or Ubuntu: sudo apt install python$version-venv" >&2
            exit 1
        fi
        echo "Making .venv with $("$python" --version)"
        "$python" -m venv --clear .venv
    fi
    echo "Installing the project"
    # By uv, which the project needs anyway, because pip takes minutes; by pip where only pip knows the way.
    pip=".venv/bin/python -m pip install --quiet --disable-pip-version-check"
    $pip 'uv>=0.5' &&
        .venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python --editable "$1" ||
        $pip --editable "$1"
    echo "$wanted" >"$stamp"
}

# Sourced by start and test, from the project's root.

find_python() {
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "Python 3.11 or newer is needed; one that has another name is given as PYTHON=/path/to/python3.11 $0" >&2
    name_fix python3 python3-venv
    return 1
}

# name_fix PACKAGE…: how to install them, for whoever reads it, as sandbox doctor puts it.
name_fix() {
    as_root=
    [ "$(id -u)" = 0 ] || as_root='sudo '
    echo "    fix: ${as_root}apt install $* (on Debian and Ubuntu)" >&2
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
            echo "$python cannot make virtual environments" >&2
            name_fix "python$version-venv"
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

# shellcheck shell=sh
# make_venv [dev]: a virtual environment with this project installed; sourced by scripts/quickstart and scripts/test.

make_venv() {
    venv=${MARGO_GITOPS_VENV:-.venv}
    python=${PYTHON:-python3}
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "error: $python is older than Python 3.11; name a newer one, for example PYTHON=python3.12" >&2
        exit 2
    }
    if ! [ -x "$venv/bin/pip" ]; then
        if ! said=$("$python" -m venv "$venv" 2>&1); then
            remedy="see above: a full disk, or a folder that this user cannot write?"
            "$python" -c 'import ensurepip' 2>/dev/null || remedy="on Debian and Ubuntu: apt-get install python3-venv"
            printf '%s\nerror: no virtual environment can be made in %s\n  remedy: %s\n' "$said" "$venv" "$remedy" >&2
            exit 2
        fi
    fi
    # Installing again costs seconds; the stamp says for which inputs it was done.
    stamp=$(cat pyproject.toml constraints.txt | cksum)
    # What the tests need holds all that the quickstart needs.
    case $(cat "$venv/.installed" 2>/dev/null) in
        "$stamp ${1:-}" | "$stamp dev") installed=yes ;;
        *) installed=no ;;
    esac
    if [ "$installed" = no ]; then
        "$venv/bin/pip" install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
        if [ "${1:-}" = dev ]; then
            "$venv/bin/pip" install --quiet --disable-pip-version-check -c constraints.txt --group dev
        fi
        "$venv/bin/pip" install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
        echo "$stamp ${1:-}" >"$venv/.installed"
    fi
    PATH=$(cd "$venv/bin" && pwd):$PATH
    export PATH
}

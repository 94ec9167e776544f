# Sourced by the other scripts: `prepare_environment runtime|dev` makes .venv and installs the
# project into it. It returns at once while pyproject.toml is the one that was installed.
# `prepare_browser` gets what opens the reports in the tests, where this system can.

prepare_environment() {
  local group=$1 python=${PYTHON:-python3.11} stamp=".venv/installed-$1.toml" extra=()
  if cmp -s pyproject.toml "$stamp"; then return 0; fi
  if [[ $group == runtime ]] && cmp -s pyproject.toml .venv/installed-dev.toml; then return 0; fi
  if [[ ! -x .venv/bin/python ]]; then
    if ! command -v "$python" >/dev/null; then
      echo "$python is not installed; name another Python 3.11 in PYTHON" >&2
      return 1
    fi
    echo "making .venv with $("$python" --version)"
    "$python" -m venv .venv || return
  fi
  [[ $group == dev ]] && extra=(--group dev)
  # Another project publishes a package `kernels`; it must never shadow this project's.
  echo "kernels<0" >.venv/constraints.txt
  echo "installing the project and its libraries into .venv"
  local pip=(.venv/bin/python -m pip -qq --disable-pip-version-check)
  "${pip[@]}" install --upgrade "pip>=25.1" || return
  "${pip[@]}" install --constraint .venv/constraints.txt --editable . ${extra[@]+"${extra[@]}"} || return
  cp pyproject.toml "$stamp"
}

prepare_browser() {
  if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then return 0; fi
  if command -v apt-get >/dev/null && [[ $(id -u) == 0 ]]; then
    echo "installing chromium"
    export DEBIAN_FRONTEND=noninteractive
    if apt-get update -qq >/dev/null 2>&1 \
      && apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null 2>&1; then
      return 0
    fi
  fi
  echo "no chromium and chromedriver: the tests that open reports in a browser are skipped"
}

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from backtest import __version__, cli
from backtest.errors import ConfigError, DataError, RunError


def call(*words: str) -> int:
    return cli.call(list(words))


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    def install(error: BaseException) -> None:
        def command() -> None:
            raise error

        module = type(sys)("backtest.cli.failing")
        monkeypatch.setattr(module, "command", command, raising=False)
        monkeypatch.setitem(sys.modules, "backtest.cli.failing", module)
        monkeypatch.setitem(cli.COMMANDS, "report", cli.Entry("failing", "command", ""))

    return install


def test_version(capsys: pytest.CaptureFixture[str]):
    assert call("--version") == 0
    assert capsys.readouterr().out == f"pmstress {__version__}\n"


def test_every_command_is_listed_with_a_summary(capsys: pytest.CaptureFixture[str]):
    assert call("--help") == 0
    text = capsys.readouterr().out
    for name, entry in cli.COMMANDS.items():
        assert f"{name} " in text
        assert entry.summary in text


def test_help_is_light():
    code = (
        "import sys\nfrom backtest.cli import call\nassert call(['--help']) == 0\n"
        "heavy = {'jax', 'pandas', 'matplotlib', 'pyarrow', 'scipy', 'dask'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def help_pages() -> list[tuple[str, ...]]:
    below = {"dataset": ("build", "check", "describe"), "params": ("check", "show", "diff")}
    groups = [(name, leaf) for name, leaves in below.items() for leaf in leaves]
    return [(name,) for name in cli.COMMANDS] + groups


@pytest.mark.parametrize("words", help_pages(), ids=" ".join)
def test_every_help_has_an_example(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    assert call(*words, "--help") == 0
    assert f"Example: pmstress {words[0]}" in capsys.readouterr().out


def test_square_brackets_stay_in_help(capsys: pytest.CaptureFixture[str]):
    assert call("dataset", "build", "--help") == 0
    assert "only [market] is read" in capsys.readouterr().out
    assert call("explain", "--help") == 0
    text = capsys.readouterr().out
    assert "[A] marks" in text
    assert "section [traces]" in text


@pytest.mark.parametrize(
    ("words", "message", "where"),
    [
        (["runn"], "No such command 'runn'. Did you mean 'run'?", "pmstress --help"),
        (["report", "--foo", "x"], "--foo", "pmstress report --help"),
        (["report"], "Missing argument 'DIR'", "pmstress report --help"),
        (["run", "x.toml", "--workers", "none"], "--workers", "pmstress run --help"),
    ],
)
def test_usage_errors(
    words: list[str], message: str, where: str, capsys: pytest.CaptureFixture[str]
):
    assert call(*words) == 2
    shown = capsys.readouterr()
    assert not shown.out
    assert shown.err.startswith("error: ")
    assert message in shown.err
    assert shown.err.endswith(f"see {where}\n")


def test_no_command_shows_help_and_is_an_error(capsys: pytest.CaptureFixture[str]):
    assert call() == 2
    shown = capsys.readouterr()
    assert "Usage: pmstress" in shown.out + shown.err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("a.toml: unknown key 'x'"), 2, "error: a.toml: unknown key 'x'\n"),
        (DataError("no file"), 3, "error: no file\n"),
        (RunError("2 cells failed"), 4, "error: 2 cells failed\n"),
        (PermissionError(13, "Permission denied", "out"), 2, "error: out: Permission denied\n"),
        (OSError("disk"), 2, "error: disk\n"),
        (
            ZeroDivisionError("oops"),
            1,
            "error: internal: ZeroDivisionError: oops (set PMSTRESS_DEBUG=1 to see where)\n",
        ),
        (
            KeyboardInterrupt(),
            130,
            "interrupted; what is finished stays, run again to go on\n",
        ),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, BaseException) else "",
)
def test_errors_are_one_message_and_an_exit_code(
    failing: Any, error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
):
    failing(error)
    assert call("report") == code
    shown = capsys.readouterr()
    assert shown.err == message
    assert not shown.out


def test_the_traceback_is_there_when_asked_for(
    failing: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    failing(ZeroDivisionError("oops"))
    monkeypatch.setenv("PMSTRESS_DEBUG", "1")
    assert call("report") == 1
    assert "Traceback" in capsys.readouterr().err


def test_main_exits_with_the_code(failing: Any):
    failing(DataError("no file"))
    with pytest.raises(SystemExit) as exit_of:
        cli.main(["report"])
    assert exit_of.value.code == 3

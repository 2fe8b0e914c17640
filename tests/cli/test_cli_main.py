from __future__ import annotations

import argparse
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import vidzoo
from vidzoo.cli import build_parser, listing, main

Command = Callable[..., object]


@pytest.mark.parametrize("args", [[], ["predict"], ["train"], ["predict", "x", "--topk", "0"], ["list", "--wrong"]])
def test_a_senseless_command_line_exits_with_2(args: list[str], vidzoo_command: Command) -> None:
    outcome = vidzoo_command(*args)
    assert outcome.code == 2
    assert outcome.out == ""
    assert "usage: vidzoo" in outcome.err


def test_help_and_version_exit_with_0(vidzoo_command: Command) -> None:
    helped = vidzoo_command("--help")
    assert helped.code == 0
    assert all(name in helped.out for name in ("predict", "eval", "finetune", "list", "info"))
    assert vidzoo_command("--version").out.split() == ["vidzoo", vidzoo.__version__]


@pytest.mark.parametrize("name", ["predict", "eval", "finetune", "list", "info"])
def test_every_command_explains_itself(name: str, vidzoo_command: Command) -> None:
    outcome = vidzoo_command(name, "--help")
    assert outcome.code == 0
    assert f"usage: vidzoo {name}" in outcome.out


@pytest.mark.parametrize("args", [["--debug", "list", "x"], ["list", "x", "--debug"]])
def test_debug_may_stand_before_or_after_the_command(args: list[str]) -> None:
    assert build_parser().parse_args(args).debug is True
    assert build_parser().parse_args(["list", "x"]).debug is False


def test_debug_shows_the_traceback_and_nothing_else_does(vidzoo_command: Command) -> None:
    loud, quiet = vidzoo_command("info", "nosuch", "--debug"), vidzoo_command("info", "nosuch")
    assert "Traceback" in loud.err
    assert loud.err.splitlines()[-1] == quiet.sentence
    assert (loud.code, quiet.code) == (1, 1)


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, "vidzoo: interrupted"),
        (PermissionError(13, "Permission denied", "/closed/file"), 1, "vidzoo: /closed/file: Permission denied"),
        (OSError(28, "No space left on device"), 1, "vidzoo: No space left on device"),
        (vidzoo.VidzooError("two\nlines"), 1, "vidzoo: two lines"),
    ],
)
def test_an_expected_failure_is_one_sentence(
    error: BaseException, code: int, sentence: str, vidzoo_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(listing, "run", fail)
    outcome = vidzoo_command("list")
    assert outcome.code == code
    assert outcome.sentence == sentence
    assert outcome.out == ""


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise RuntimeError("a bug")

    monkeypatch.setattr(listing, "run", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["list"])


def test_a_warning_is_one_line_without_a_place_in_the_code(
    vidzoo_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(args: argparse.Namespace) -> int:
        warnings.warn("take\ncare", stacklevel=1)
        return 0

    monkeypatch.setattr(listing, "run", warn)
    before = warnings.showwarning
    assert vidzoo_command("list").sentence == "vidzoo: warning: take care"
    assert warnings.showwarning is before


_PYTHON = [sys.executable, "-m", "vidzoo.cli"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(vidzoo.__file__).parents[1]), "OMP_NUM_THREADS": "1"}


def test_help_and_list_load_torch_and_none_of_the_other_heavy_packages() -> None:
    code = (
        "import sys; from vidzoo.cli import main; assert main(['list', 'gst']) == 0; assert main(['--help']) == 0; "
        "heavy = {'torchvision', 'timm', 'av', 'accelerate', 'matplotlib', 'PIL', 'huggingface_hub'}; "
        "print(*sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0
    assert "gst_r18" in done.stdout
    assert done.stderr.split() == []


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    done = subprocess.run(
        f"'{sys.executable}' -c \"from vidzoo.cli import main; import sys; "
        "[main(['list']) for _ in range(300)]\" | head -1",
        shell=True,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""

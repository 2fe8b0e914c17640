"""Where a model name points to, and the weights that come with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

import vidzoo
from vidzoo.errors import UnknownModelError, WeightsError
from vidzoo.hub import embedded, parse_source


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gst_r18", ("", "gst_r18")),
        ("gst_r18.weizmann", ("", "gst_r18.weizmann")),
        ("hf-hub:zoo/r18", ("hf-hub", "zoo/r18")),
        ("hf_hub:zoo/r18@v1", ("hf-hub", "zoo/r18@v1")),
        ("hf-hub:zoo/r18@refs/pr/1", ("hf-hub", "zoo/r18@refs/pr/1")),
        ("local-dir:runs/best", ("local-dir", "runs/best")),
        (r"local-dir:C:\runs\best@home", ("local-dir", r"C:\runs\best@home")),
        ("local-dir:/data/a:b", ("local-dir", "/data/a:b")),
    ],
)
def test_a_name_is_of_the_zoo_or_says_its_source(name: str, expected: tuple[str, str]) -> None:
    assert parse_source(name) == expected


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("zoo/r18", "for a folder write local-dir:zoo/r18, for the Hub write hf-hub:zoo/r18"),
        ("zoo/r18@v1", "for the Hub write hf-hub:zoo/r18@v1"),
        ("./runs/best", "for a folder write local-dir:./runs/best, for the Hub write hf-hub:org/name"),
        ("/data/runs/best", "for a folder write local-dir:/data/runs/best"),
        (r"C:\runs\best", r"for a folder write local-dir:C:\runs\best"),
        ("C:/runs/best", "for a folder write local-dir:C:/runs/best"),
        ("hfhub:zoo/r18", "did you mean 'hf-hub'"),
        ("localdir:runs", "did you mean 'local-dir'"),
        ("timm:resnet18", "write hf-hub:org/name for the Hub, local-dir:path for a folder"),
        ("https://huggingface.co/zoo/r18", "write hf-hub:org/name for the Hub"),
        (":zoo", "nothing stands before the colon"),
        ("", "the model name is empty"),
        ("hf-hub:", "hf-hub: needs the id of a repository"),
        ("hf-hub:@v1", "hf-hub: needs the id of a repository"),
        ("hf-hub:zoo/r18@", "write org/name or org/name@revision"),
        ("hf-hub:zoo/r18@a@b", "write org/name or org/name@revision"),
        ("local-dir:", "local-dir: needs the path of a model folder"),
        ("local-dir:  ", "local-dir: needs the path of a model folder"),
    ],
)
def test_a_name_that_cannot_be_meant_is_answered_with_the_right_one(name: str, advice: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        parse_source(name)
    assert advice in str(caught.value)


def test_embedded_weights_are_a_file_of_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "a.safetensors").write_bytes(b"weights")
    monkeypatch.setattr("vidzoo.hub.source.importlib.resources.files", lambda package: tmp_path)
    assert embedded("a.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize("file", ["missing.safetensors", "../hub.py", ""])
def test_embedded_weights_that_are_missing_are_named(file: str) -> None:
    with pytest.raises(WeightsError, match="are not in this installation of vidzoo"):
        embedded(file)


def test_create_model_uses_the_same_words() -> None:
    with pytest.raises(UnknownModelError, match="for the Hub write hf-hub:zoo/r18"):
        vidzoo.create_model("zoo/r18")

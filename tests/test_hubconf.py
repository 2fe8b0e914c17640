"""torch.hub: list, help and load, from a checkout and from a downloaded archive, each in a process of its own.

torch.hub leaves ``vidzoo`` in ``sys.modules``, so nothing of it runs in the process of the tests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

import vidzoo

CHECKOUT = Path(__file__).resolve().parents[1]

# `report` ends as JSON on the last line of stdout; `without` hides packages as if they were not installed.
PROLOGUE = """
import importlib.machinery, json, sys, warnings
checkout, report, hidden = sys.argv[1], {}, set()

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)

sys.meta_path = [Finder if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]

def error_of(function, *args, **options):
    try:
        function(*args, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def logits(model):
    clip = torch.linspace(-1, 1, 3 * 4 * 24 * 32).view(1, 3, 4, 24, 32)  # (B, C, T, H, W)
    with torch.inference_mode():
        return model.eval()(clip)[0].tolist()
"""

# list and help have no source=: a folder that torch.hub takes for a download stands in for GitHub.
FROM_CHECKOUT = """
import torch
report["list"] = torch.hub.list("acme/vidzoo:main")
report["help"] = {name: torch.hub.help("acme/vidzoo:main", name) for name in report["list"]}
load = lambda name, *args, **options: torch.hub.load(checkout, name, *args, source="local", **options)
model = load("gst_r18", True, tag="weizmann")
report["where"] = sys.modules["vidzoo"].__file__
report["logits"] = logits(model)
report["classes"] = load("gst_r18", pretrained=True, tag="weizmann", num_classes=5, in_chans=1).fc.weight.shape[0]
report["fresh"] = load("gst_r18", num_classes=7).num_classes
report["maps"] = load("c2d_r18", features_only=True, out_indices=(1, 4)).feature_info[-1].num_chs
report["by name"] = logits(load("create_model", "gst_r18.weizmann", pretrained=True))
report["errors"] = [
    error_of(load, "gst_r19"), error_of(load, "gst_r18", tag="weizman"), error_of(load, "gst_r18", num_clases=5)
]
"""

WITHOUT_PACKAGES = """
hidden |= {"torchvision", "timm", "huggingface_hub", "safetensors", "filelock", "av", "accelerate", "matplotlib"}
hidden |= {"pytorchvideo", "webdataset"}
import torch
report["list"] = torch.hub.list("acme/vidzoo:main")
report["missing"] = error_of(torch.hub.load, checkout, "gst_r18", source="local")
hidden -= {"torchvision", "timm", "huggingface_hub", "safetensors", "filelock"}
load = lambda name, *args, **options: torch.hub.load(checkout, name, *args, source="local", **options)
report["logits"] = logits(load("gst_r18", True, tag="weizmann"))
with torch.device("meta"):
    vidzoo = sys.modules["vidzoo"]
    report["built"] = [load(vidzoo.list_models(module=module)[0]).num_classes for module in vidzoo.list_modules()]
report["donor"] = error_of(load, "gst_r18", True, tag="in1k", local_files_only=True)
report["hub"] = error_of(load, "create_model", "hf-hub:acme/gst", local_files_only=True)
report["hidden"] = sorted(hidden & sys.modules.keys())
"""

FROM_ARCHIVE = """
from pathlib import Path
import torch
archives = Path(sys.argv[2]).as_uri()
torch.hub._git_archive_link = lambda owner, repository, ref: f"{archives}/{ref}.zip"
model = torch.hub.load(
    "acme/vidzoo:v1", "gst_r18", pretrained=True, tag="weizmann", skip_validation=True, trust_repo=True
)
report["where"] = sys.modules["vidzoo"].__file__
report["logits"] = logits(model)
labels = __import__("vidzoo.labels").labels
report["labels"] = len(labels.class_names("ssv2"))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    torch.hub.load(checkout, "gst_r18", source="local")
report["warnings"] = [str(one.message) for one in caught]
"""


def run(script: str, home: Path, *args: Path) -> dict[str, Any]:
    """What a process of its own reports, with nothing downloaded before and the network switched off."""
    (home / "hub").mkdir(exist_ok=True)
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT") if name in os.environ}
    environment = {
        **kept,
        **dict.fromkeys(("TORCH_HOME", "HOME", "HF_HOME", "VIDZOO_HOME"), str(home)),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    code = f"{PROLOGUE}\n{script}\nprint()\nprint(json.dumps(report))"
    command = [sys.executable, "-c", code, str(CHECKOUT), *map(str, args)]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def link(home: Path) -> Path:
    """The checkout where torch.hub would have put the download of acme/vidzoo:main."""
    (home / "hub").mkdir()
    (home / "hub" / "acme_vidzoo_main").symlink_to(CHECKOUT, target_is_directory=True)
    return home


@pytest.fixture(scope="module")
def from_checkout(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(FROM_CHECKOUT, link(tmp_path_factory.mktemp("checkout")))


@pytest.fixture(scope="module")
def without_packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(WITHOUT_PACKAGES, link(tmp_path_factory.mktemp("bare")))


@pytest.fixture(scope="module")
def from_archive(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The files that git knows of, or would not ignore, in the form in which GitHub sends a repository."""
    git = shutil.which("git")
    if git is None or not (CHECKOUT / ".git").exists():
        pytest.skip("this is no git checkout, so nobody knows which files GitHub would send")
    listing = [git, "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, capture_output=True, check=True).stdout.decode().split("\0")
    home = tmp_path_factory.mktemp("archive")
    with zipfile.ZipFile(home / "v1.zip", "w") as archive:
        archive.mkdir("acme-vidzoo-0123456")
        for name in filter(None, names):
            if (CHECKOUT / name).is_file():
                archive.write(CHECKOUT / name, f"acme-vidzoo-0123456/{name}")
    return run(FROM_ARCHIVE, home, home)


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    model = vidzoo.create_model("gst_r18.weizmann", pretrained=True).eval()
    clip = torch.linspace(-1, 1, 3 * 4 * 24 * 32).view(1, 3, 4, 24, 32)  # (B, C, T, H, W)
    with torch.inference_mode():
        return model(clip)[0]


def test_the_list_has_every_model_and_create_model_and_nothing_else(from_checkout: dict[str, Any]) -> None:
    assert sorted(from_checkout["list"]) == sorted([*vidzoo.list_models(), "create_model"])


def test_the_help_of_a_model_says_what_it_builds_its_options_and_its_weights(from_checkout: dict[str, Any]) -> None:
    for name in vidzoo.list_models():
        text, entrypoint = from_checkout["help"][name], vidzoo.model_entrypoint(name)
        assert text.startswith(f"{name}(pretrained=False")
        assert entrypoint.__doc__ is not None
        assert entrypoint.__doc__.splitlines()[0] in text
        assert all(f"\n    {option}: " in text for option in vidzoo.model_options(name))
        tagged = [cfg.tag for cfg in vidzoo.get_arch_pretrained_cfgs(name).values() if cfg.has_weights]
        assert all(f"\n    {tag}: " in text for tag in tagged)
        assert ("\n    none\n" in text) == (not tagged)
    assert "local-dir:path" in from_checkout["help"]["create_model"]


def test_weights_from_torch_hub_are_those_of_create_model(
    from_checkout: dict[str, Any], from_archive: dict[str, Any], expected: torch.Tensor
) -> None:
    assert Path(from_checkout["where"]).resolve() == CHECKOUT / "vidzoo" / "__init__.py"
    for found in (from_checkout["logits"], from_checkout["by name"], from_archive["logits"]):
        torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-4, atol=1e-5)


def test_the_options_of_create_model_pass_through(from_checkout: dict[str, Any]) -> None:
    assert (from_checkout["classes"], from_checkout["fresh"], from_checkout["maps"]) == (5, 7, 512)


def test_wrong_names_tags_and_options_are_refused_in_one_sentence(from_checkout: dict[str, Any]) -> None:
    name, tag, option = from_checkout["errors"]
    assert name == "RuntimeError: Cannot find callable gst_r19 in hubconf"
    assert tag.startswith(
        "UnknownTagError: the model 'gst_r18' has no weights tagged 'weizman': did you mean 'weizmann'"
    )
    assert option.startswith("UnknownOptionError: the model 'gst_r18' has no option 'num_clases': did you mean")


def test_missing_packages_are_named_all_at_once(without_packages: dict[str, Any]) -> None:
    missing = "torchvision, timm, huggingface_hub, safetensors, filelock"
    assert without_packages["missing"] == f"RuntimeError: Missing dependencies: {missing}"
    assert "gst_r18" in without_packages["list"]


def test_no_package_is_needed_that_is_not_named(without_packages: dict[str, Any], expected: torch.Tensor) -> None:
    torch.testing.assert_close(torch.tensor(without_packages["logits"]), expected, rtol=1e-4, atol=1e-5)
    assert len(without_packages["built"]) == len(vidzoo.list_modules())
    assert without_packages["donor"].startswith("HubError: timm/resnet18.a1_in1k")
    assert without_packages["hub"].startswith("HubError: acme/gst is not in the cache")
    assert without_packages["hidden"] == []


def test_an_archive_as_github_sends_it_has_the_code_the_weights_and_the_class_names(
    from_archive: dict[str, Any],
) -> None:
    assert Path(from_archive["where"]).parts[-3:] == ("acme_vidzoo_v1", "vidzoo", "__init__.py")
    assert from_archive["labels"] == 174


def test_a_second_copy_in_one_process_is_warned_about(from_archive: dict[str, Any]) -> None:
    (text,) = from_archive["warnings"]
    assert "acme_vidzoo_v1" in text
    assert f"not {CHECKOUT / 'vidzoo'}: start a new process" in text

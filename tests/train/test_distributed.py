"""Several processes, started by torchrun on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vidzoo.errors import DistributedError
from vidzoo.train.config import FinetuneConfig
from vidzoo.train.distributed import make_accelerator
from vidzoo.train.loop import finetune

SCRIPT = """
import json, os, sys
import torch
from vidzoo.train.config import FinetuneConfig
from vidzoo.train.loop import finetune

torch.set_num_threads(1)
data, out, options = sys.argv[1:]
result = finetune("c2d_r18", data, out, FinetuneConfig.from_dict(json.loads(options)))
state = {"weights": result.model.state_dict(), "loss": result.report.loss, "videos": result.report.num_videos}
torch.save(state, f"{out}/rank{os.environ['RANK']}.pt")
torch.distributed.destroy_process_group()
"""


def test_two_processes_train_as_one(bars: Path, quick: FinetuneConfig, tmp_path: Path) -> None:
    # With norms frozen, two processes of two clips are exactly one process of four.
    config = quick.replace(epochs=1, freeze_bn="all", lr=1e-3, batch_size=4, keep="last", ema_decay=0.5, grad_accum=2)
    alone = finetune("c2d_r18", bars, tmp_path / "alone", config)
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    out = tmp_path / "two"
    options = json.dumps(config.replace(batch_size=2, processes=2).to_dict())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(script), str(bars), str(out), options],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert first["videos"] == second["videos"] == 3
    assert first["loss"] == second["loss"]
    for name, value in alone.model.state_dict().items():
        assert torch.equal(first["weights"][name], second["weights"][name]), name
        torch.testing.assert_close(first["weights"][name], value, rtol=1e-3, atol=1e-5)


def test_a_run_that_gets_fewer_processes_than_asked_for_stops_first(
    bars: Path, quick: FinetuneConfig, tmp_path: Path
) -> None:
    with pytest.raises(DistributedError, match="torchrun --nproc-per-node 2"):
        finetune("c2d_r18", bars, tmp_path / "run", quick.replace(processes=2))
    assert not (tmp_path / "run").exists()


def test_a_launcher_whose_processes_do_not_find_each_other_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_NUM_PROCESSES", "2")
    with pytest.raises(DistributedError, match="has 1"):
        make_accelerator()

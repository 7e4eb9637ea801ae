"""What several processes do in test_devices.py: `python launched_runs.py FOLDER` trains RUNS, `... train FOLDER` a run with checkpoints,
`... notebook FOLDER` one of RUNS in three processes, as a notebook would start them."""
import os
import sys
import time
from pathlib import Path
from unittest import mock

import torch
from launched import free_port
from tiny import tiny_config, tiny_data

from multimix import step
from multimix.data import InputError
from multimix.devices import on_main
from multimix.pseudo_labels import POLICIES
from multimix.training import Loop, Run, train, trainer_state

COMMON = dict(steps=20, dropout=0.0, batch=2, unlabeled=4, threshold=0.75, momentum=0.9, ema=0.9, teacher="ema", lr=3e-3)
RUNS = {policy: dict(COMMON, policy=policy) for policy in POLICIES} | {
    "mean teacher": dict(COMMON, method="multimix_mt", mask_weight=1.0), "rivals": dict(COMMON, method="multimix_cps", mask_weight=1.0),
    "uneven": dict(COMMON, batch=3, unlabeled=5, policy="freematch", teacher="student", labeled_view="both", preset="paper"),
    "single precision": dict(COMMON, policy="softmatch", lr=3e-5, steps=6),
    "dropout": dict(COMMON, policy="flexmatch", dropout=0.25, bridge="shuffled", amp="bf16", steps=3),
}
IN_SINGLE = ("single precision", "dropout")
KILLED = dict(COMMON, policy="freematch", steps=8, lr=3e-5)


def losses_and_state(name: str) -> dict:
    """Train a run of RUNS: the logs of every step, and the state at the end. In double precision, two orders of summing stay together;
    in single precision, Adam makes of a rounding error in a gradient near zero a whole step in the other direction."""
    config, scale = tiny_config(**RUNS[name]), step.scale_input
    trainer, double = step.Trainer(config, tiny_data()), name not in IN_SINGLE
    with mock.patch.object(step, "scale_input", lambda *given: scale(*given).double() if double else scale(*given)):
        for model in (trainer.model, trainer.average, *(t.peer for t in trainer.terms if hasattr(t, "peer"))):
            model.double() if double else model.float()
        logs = [{k: float(v) for k, v in step.train_step(trainer).items()} for _ in range(config.steps)]
    return {"logs": logs, "state": trainer_state(trainer), "processes": (trainer.processes.rank, trainer.processes.count)}


def keep(folder: str, name: str) -> None:
    "`losses_and_state` to a file for each process."
    torch.set_num_threads(1)
    found = losses_and_state(name)
    torch.save(found, Path(folder) / "{}-{}-of-{}.pt".format(name, *found["processes"]))


def train_slowly(folder: str, pause: float = 0.0) -> Run:
    "Train KILLED, or go on with it; each process leaves its number beside the folder."
    torch.set_num_threads(1)
    Path(f"{folder}-pid-{os.environ.get('RANK', 0)}").write_text(str(os.getpid()))
    return train(tiny_config(**KILLED), tiny_data(), folder, resume=True, loop=Loop(1, 2, 1), progress=False,
                 validate=lambda model: {"score": next(model.parameters()).sum().item()}, on_log=lambda history: time.sleep(pause))


def fail() -> None:
    raise InputError("the disk of the main process is full")


if __name__ == "__main__":
    if sys.argv[1] == "train":
        train_slowly(sys.argv[2], float(sys.argv[3]))
    elif sys.argv[1] == "notebook":
        from accelerate import notebook_launcher

        notebook_launcher(keep, args=(sys.argv[2], "uneven"), num_processes=3, use_port=free_port())
    else:
        for name in RUNS:
            keep(sys.argv[1], name)
        run = train_slowly(f"{sys.argv[1]}/whole")
        print("seconds:", run.seconds)
        try:
            on_main(step.connect(), fail)
        except InputError as error:
            print("every process hears:", error)

"""Programs in several processes on CPU, for the tests of devices: started here by hand, or by accelerate's launcher."""
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
LAUNCHER = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]


def free_port() -> str:
    "A port that nobody listens on."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def surroundings(**more) -> dict[str, str]:
    "The environment of a child: it finds the tests and the package, sees no GPU, and computes on one thread."
    paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    plain = dict(PYTHONPATH=os.pathsep.join(filter(None, paths)), CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")
    return {**os.environ, **plain, **{k: str(v) for k, v in more.items()}}


def run_together(count: int, words: list[str], seconds: float = 240) -> list[tuple[int, str]]:
    "Run `python words...` in `count` connected processes without a launcher: exit code and words of each. When one fails, all end."
    port, children, texts = free_port(), [], [tempfile.TemporaryFile("w+") for _ in range(count)]
    for rank, text in enumerate(texts):
        env = surroundings(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=count, LOCAL_WORLD_SIZE=count, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        children.append(subprocess.Popen([sys.executable, *words], env=env, stdout=text, stderr=subprocess.STDOUT))
    end = time.monotonic() + seconds
    while None in (codes := [child.poll() for child in children]) and not any(codes) and time.monotonic() < end:
        time.sleep(0.05)
    for child in children:
        child.kill()
    return [(child.wait(), text.seek(0) or text.read()) for child, text in zip(children, texts)]


def launch(count: int, words: list[str], **settings) -> subprocess.Popen:
    "`accelerate launch` of `words` in `count` processes on CPU. Its --cpu starts several only by MPI; --multi_gpu starts them anywhere."
    command = [*LAUNCHER, "--multi_gpu", "--num_processes", str(count), "--main_process_port", free_port(), *words]
    return subprocess.Popen(command, env=surroundings(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **settings)

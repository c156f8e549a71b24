"""The JAX contestant in a process of its own, asked over a pipe, one JSON object a line.

Threads of PyTorch and of XLA in one process would wait for one another in loops and spoil both times. The child
measures its own processor time. Arrays travel in files.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np

from benchmarks.problem import Array, Problem
from benchmarks.sizes import Size

ONE_THREAD = {
    "NPROC": "1",
    "OMP_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}
ROOT = Path(__file__).parents[2]


@functools.cache
def available() -> bool:
    """Whether JAX is installed and can be imported on this processor."""
    if find_spec("jax") is None:
        return False
    return subprocess.run([sys.executable, "-c", "import jax.numpy"], capture_output=True).returncode == 0


class JaxProcess:
    """A child that holds the contestant; a context manager, which ends it.

    Args:
        size: Of the problem.
        precision: ``float32`` or ``float64``.
        noise_scale: Of the Langevin step.
        settings: As of ``Problem.build``.
    """

    def __init__(
        self, size: Size, precision: str = "float32", noise_scale: float = 1.0, **settings: float
    ) -> None:
        self.folder = tempfile.TemporaryDirectory()
        setup = {
            "size": size.plain(), "precision": precision, "noise_scale": noise_scale, "settings": settings
        }  # fmt: skip
        self.child = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(setup)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,  # Ctrl-C is for the parent, which ends the child
            env={**os.environ, **ONE_THREAD, "JAX_ENABLE_X64": str(int(precision == "float64"))},
        )

    def __enter__(self) -> JaxProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.child.kill()
        self.child.communicate()
        self.folder.cleanup()

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(json.dumps(request) + "\n")
        self.child.stdin.flush()
        answer = self.child.stdout.readline()
        if not answer:
            raise RuntimeError(
                f"the process of JAX ended with {self.child.wait()} and what it printed stands above."
            )
        found: dict[str, Any] = json.loads(answer)
        return found

    def _array_file(self, array: Array | None) -> str | None:
        if array is None:
            return None
        path = Path(self.folder.name, "given.npy")
        np.save(path, array)
        return str(path)

    def gradient(self, z: Array) -> Array:
        answer = self._ask(
            do="gradient", array=self._array_file(z), out=str(Path(self.folder.name, "gradient.npy"))
        )
        gradient: Array = np.load(answer["out"])
        return gradient

    def walk(self, steps: int) -> float:
        """Seconds that it took."""
        return float(self._ask(do="walk", steps=steps)["seconds"])

    def train(self, start: Array | None = None) -> float:
        """Seconds that it took."""
        return float(self._ask(do="train", array=self._array_file(start))["seconds"])

    def weights(self) -> dict[str, Array]:
        answer = self._ask(do="weights", out=str(Path(self.folder.name, "weights.npz")))
        with np.load(answer["out"]) as arrays:
            return dict(arrays)


def serve(setup: dict[str, Any], requests: TextIO, answers: TextIO) -> None:
    """The child: answer until the pipe is closed."""
    from benchmarks.contestants.jax_loop import JaxLoop

    problem = Problem.build(Size(**setup["size"]), setup["precision"], **setup["settings"])
    contestant = JaxLoop(problem, setup["noise_scale"])
    for line in requests:
        request = json.loads(line)
        array: Any = None if request.get("array") is None else np.load(request["array"])
        answer: dict[str, Any] = {"out": request.get("out")}
        start = time.process_time()
        match request["do"]:
            case "gradient":
                np.save(request["out"], contestant.gradient(array))
            case "walk":
                contestant.walk(request["steps"])
            case "train":
                contestant.train(array)
            case "weights":
                weights: dict[str, Any] = contestant.weights()
                np.savez(request["out"], **weights)
        answer["seconds"] = time.process_time() - start
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]), sys.stdin, sys.stdout)

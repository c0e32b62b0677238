import os
import subprocess
import sys
from pathlib import Path

import pytest

from project import wait_until

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
# processes that tests start find the package too
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "workflow"), os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="session")
def warm_server(tmp_path_factory) -> str:
    """The address of a server from which jobs start warm: DIFFINFO_SERVER of unchanged copies of the project."""
    address = tmp_path_factory.mktemp("s") / "server"
    server = subprocess.Popen([sys.executable, "-m", "diffinfo.operations.warm", address], stdin=subprocess.DEVNULL)
    wait_until(address.exists, "the server listens", 120, alive=lambda: server.poll() is None)
    yield str(address)
    server.kill()
    server.wait()


@pytest.fixture(scope="session")
def public_data() -> Path:
    """Slices of public data, see its README.md."""
    return ROOT / "tests" / "data" / "public"


@pytest.fixture(scope="session", params=["mistral", "gemma2"])
def tiny(request, tmp_path_factory) -> Path:
    """A random model folder of each architecture and chat template."""
    from diffinfo.world.training import start

    folder = tmp_path_factory.mktemp(request.param)
    start(folder, request.param, hidden=32, layers=2, seed=3)
    return folder


@pytest.fixture(scope="session")
def tiny_mistral(tmp_path_factory) -> Path:
    from diffinfo.world.training import start

    folder = tmp_path_factory.mktemp("tiny_mistral")
    start(folder, "mistral", hidden=32, layers=2, seed=3)
    return folder


@pytest.fixture(scope="session")
def pairs_table(tmp_path_factory) -> Path:
    """Forty preference pairs of the micro world."""
    import random

    import pandas as pd

    from diffinfo.tables import artifacts
    from diffinfo.world.language import draw_prompt, write

    rng = random.Random(5)
    rows = []
    for index in range(40):
        prompt = draw_prompt(rng)
        rows.append(
            {
                "prompt_id": f"p{index}",
                "messages": [{"role": "user", "content": prompt.text}],
                "chosen": write(rng, prompt, 1.0),
                "rejected": write(rng, prompt, 0.0),
                "chosen_score": 1.0,
                "rejected_score": 0.0,
                "chosen_truncated": False,
                "rejected_truncated": False,
            }
        )
    path = tmp_path_factory.mktemp("pairs") / "preferences.parquet"
    artifacts.write(path, pd.DataFrame(rows), "preferences")
    return path

"""A folder that training wrote, loaded as it is by the engines that serve it: the same greedy tokens."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from diffinfo.chat import Chat
from diffinfo.sample.engine import Decoding
from diffinfo.sample.transformers import TransformersEngine
from diffinfo.world.training import start

ROOT = Path(__file__).resolve().parents[2]
VLLM = ROOT / ".venv-vllm" / "bin" / "python"
QUESTIONS = ["add 1 and 2", "describe the owl please", "sort the numbers 3 1 2 0", "list 2 items of tool please"]
SCRIPT = """
import json, sys
from pathlib import Path
from diffinfo.sample.engine import Decoding
from diffinfo.sample.vllm import VllmEngine

if __name__ == "__main__":
    folder, prompts, stops = json.loads(sys.argv[1])
    found = VllmEngine("float32", 1, 256)(Path(folder), prompts, stops, Decoding(1, 0.0, 1.0, 16, 42))
    Path(sys.argv[2]).write_text(json.dumps([[g.token_ids, g.logp, g.finish_reason] for (g,) in found]))
"""


@pytest.mark.vllm
@pytest.mark.parametrize("style", ["mistral", "gemma2"])
def test_vllm_gives_the_greedy_tokens_of_transformers(job, tmp_path, style):
    start(tmp_path / style, style, hidden=128, layers=2, seed=3)  # heads of 32, the smallest that vLLM has kernels for
    made = job("trained", "dpo-b0.1", epochs=1, model=tmp_path / style)
    made.here()
    folder = made.folder / "models/epoch-1"
    chat = Chat(folder)
    prompts = [chat.prompt_ids([{"role": "user", "content": question}]) for question in QUESTIONS]
    attention = "eager" if style == "gemma2" else "sdpa"
    stock = TransformersEngine(attention, "float32", 4096)(
        folder, prompts, chat.stop_ids, Decoding(1, 0.0, 1.0, 16, 42)
    )
    (tmp_path / "script.py").write_text(SCRIPT)
    settings = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    environment = {**os.environ, **settings, "PYTHONPATH": str(ROOT / "workflow"), "OMP_NUM_THREADS": "1"}
    command = [VLLM, tmp_path / "script.py", json.dumps([str(folder), prompts, chat.stop_ids]), tmp_path / "out.json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    served = json.loads((tmp_path / "out.json").read_text())
    for (tokens, logp, reason), (expected,) in zip(served, stock, strict=True):
        assert tokens == expected.token_ids
        assert logp == pytest.approx(expected.logp, abs=1e-3)
        assert reason == expected.finish_reason

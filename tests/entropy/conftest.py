import pandas as pd
import pytest

from diffinfo.tables import artifacts


def _completions(path, logps, temperature=1.0):
    rows = [
        {
            "benchmark": "", "epoch": 0, "prompt_id": f"p{i // 2}", "sample": i % 2,
            "messages": [{"role": "user", "content": "u"}], "prompt_token_ids": [1], "completion": "x",
            "token_ids": [2] * (i + 1), "logp": value, "finish_reason": "length" if i == 0 else "stop",
        }
        for i, value in enumerate(logps)
    ]  # fmt: skip
    artifacts.write(path, pd.DataFrame(rows), "completions", decoding={"temperature": temperature, "top_p": 1.0})


@pytest.fixture
def completions():
    """Write a completions table with the given log-probabilities, two samples a prompt."""
    return _completions

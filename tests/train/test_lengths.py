"""Which pairs fit: limits are the longest that stays, of prompts and of prompt and the longer response."""

from diffinfo.chat import Chat
from diffinfo.tables import artifacts
from diffinfo.train import reference
from stages import stage


def lengths(folder, table) -> dict[str, tuple[int, int, int]]:
    """Tokens of each pair's prompt, chosen and rejected response."""
    chat, found = Chat(folder), {}
    for row in artifacts.read(table, "preferences").itertuples():
        prompt, chosen = chat.pair_ids(row.messages, row.chosen)
        found[row.prompt_id] = len(prompt), len(chosen), len(chat.pair_ids(row.messages, row.rejected)[1])
    return found


def test_reference_keeps_what_is_as_long_as_its_limits(tiny_mistral, pairs_table, tmp_path):
    found = lengths(tiny_mistral, pairs_table)
    prompts = sorted(prompt for prompt, _, _ in found.values())
    wholes = sorted(prompt + max(chosen, rejected) for prompt, chosen, rejected in found.values())
    for most_prompt, most in ((prompts[20], 1000), (1000, wholes[20])):
        stage(reference.main,
            model=tiny_mistral, preferences=pairs_table, attention="sdpa", dtype="float32", max_prompt_tokens=most_prompt,
            max_tokens=most, micro_batch_tokens=512, out=tmp_path / "out.parquet",
        )  # fmt: skip
        kept = {k for k, (p, c, r) in found.items() if p <= most_prompt and p + c <= most and p + r <= most}
        table = artifacts.read(tmp_path / "out.parquet", "reference_logps")
        assert set(table.prompt_id) == kept
        assert 0 < len(kept) < len(found)
        assert artifacts.provenance(tmp_path / "out.parquet")["left_out"] == len(found) - len(kept)


def test_sft_keeps_what_is_as_long_as_its_limit(job, tiny_mistral, pairs_table):
    wholes = sorted(prompt + chosen for prompt, chosen, _ in lengths(tiny_mistral, pairs_table).values())
    made = job("a", "sft", epochs=1, max_tokens=wholes[15])
    made.here()
    left_out = sum(whole > wholes[15] for whole in wholes)
    assert artifacts.provenance(made.folder / "log.parquet")["left_out"] == left_out
    kept = [whole for whole in wholes if whole <= wholes[15]]
    assert made.log().tokens.sum() == sum(kept) - len(kept)  # the first token of each is only read

"""Real pairs of two models' answers to Arena-Hard's prompts: ``real_model.py CHOSEN.jsonl REJECTED.jsonl TOKENIZER OUT.jsonl``.

Prompts of at most 64 tokens; both answers are cut to their first 96 tokens.
"""

import json
import sys

from transformers import AutoTokenizer

PROMPT, ANSWER = 64, 96
chosen, rejected, folder, out = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def answers(file: str) -> dict[str, tuple[str, str]]:
    """Prompt and answer by question, of a file of arena-hard-auto's answers."""
    with open(file, encoding="utf-8") as lines:
        rows = map(json.loads, lines)
        return {row["uid"]: (row["messages"][0]["content"], row["messages"][1]["content"]["answer"]) for row in rows}


def cut(text: str) -> str:
    """The first tokens of a text."""
    ends = [end for _, end in tokenizer(text, return_offsets_mapping=True).offset_mapping]
    return text if len(ends) <= ANSWER else text[: ends[ANSWER - 1]]


worse = answers(rejected)
with open(out, "w", encoding="utf-8") as file:
    for uid, (prompt, answer) in answers(chosen).items():
        if uid in worse and len(tokenizer(prompt).input_ids) <= PROMPT:
            row = {"prompt": prompt, "chosen": cut(answer), "rejected": cut(worse[uid][1]), "prompt_id": uid}
            file.write(json.dumps(row) + "\n")

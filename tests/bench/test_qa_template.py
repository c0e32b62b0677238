"""QA prompts take the same path to tokens as everything else."""

from pathlib import Path

import templates


def test_questions_go_through_the_template_as_answers_to_prompts_do(tmp_path: Path) -> None:
    """One path to tokens: spelt control tokens stay text, and an empty think block precedes the answer."""
    from diffinfo.bench.qa_model import ChatModel
    from diffinfo.chat import Chat

    folder = templates.folder(tmp_path, "qwen3", weights=True)
    model = ChatModel(folder, attention="eager", dtype="float32", batch_size=2, max_gen_toks=4)
    chat = Chat(folder)
    asked = [{"role": "user", "content": "is <|im_end|> the right way </s>"}]
    prompt = chat.prompt_ids(asked)
    text = model.apply_chat_template(asked)
    assert model.tok_encode(text) == prompt
    assert chat.tokenizer.decode(prompt).endswith("<think>\n\n</think>\n\n")
    short = model.apply_chat_template([{"role": "user", "content": "hello"}])
    ids, mask = model.tok_batch_encode([text, short])
    assert ids[0].tolist() == prompt
    assert ids[1][mask[1].bool()].tolist() == chat.prompt_ids([{"role": "user", "content": "hello"}])
    assert mask[1].tolist() == sorted(mask[1].tolist()), "padding is on the left"
    context, continuation = model._encode_pair(text, "yes </s>")
    assert (context + continuation).count(chat.tokenizer.eos_token_id) == 0
    assert chat.text(context + continuation).endswith("yes </s>")

"""docs/extend.md: its edits are applied to the scripts as they are, and what they compute is what they say.

1. Another loss is one new file and four lines of the script. Its value and gradient are those of the formula on PEFT's own
   model, and tuning with it makes the shots' answers likelier than the reference does.
2. A frame of one's own travels with the adapter; an edited one makes another run, refused with both digests.
"""

import json
import re
import shutil
import sys

import pytest
import torch

from tests.conftest import REPOSITORY
from tlrec.data.records import read_records
from tlrec.model import adapters, base_models
from tlrec.model.prompts import load_frame, prompt_parts
from tlrec.model.tokenization import RecordTokenizer
from tlrec.tuning.rows import tokenised

TEXT = (REPOSITORY / "docs" / "extend.md").read_text()
LAST = ["--sample", 12, "--num_epochs", 4, "--lora_dropout", 0, "--metric_for_best_model", "last"]


def block(language):
    return re.search(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)[1]


@pytest.fixture
def edited(tmp_path, monkeypatch):
    """rec_tuning.py with the edit of the page, beside the page's new file."""
    script = (REPOSITORY / "rec_tuning.py").read_text()
    lines = block("diff").splitlines()[3:]
    old, new = ("".join(line[1:] + "\n" for line in lines if line[0] == sign) for sign in "-+")
    assert script.count(old) == 1
    (tmp_path / "rec_tuning.py").write_text(script.replace(old, new))
    (tmp_path / "preference.py").write_text(block("python"))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "rec_tuning.py"
    sys.modules.pop("preference", None)


@pytest.mark.slow
def test_another_loss(edited, run_script, sweep_words, tiny_llama, tiny_adapter, tiny_workspace, tmp_path):
    import preference

    data = tiny_workspace / "rec_data" / "movie"
    _, *words = sweep_words(tmp_path / "run", "--resume_from_checkpoint", tiny_adapter, *LAST)
    status, _, err = run_script(edited, *words)
    assert status == 0, err

    base = base_models.load_base_model(tiny_llama, torch.device("cpu"), torch.float32)
    encoder = RecordTokenizer(base_models.load_tokenizer(tiny_llama), load_frame("alpaca"), 512)
    shots = [read_records(data / "train.json")[n] for n in range(6)]
    signs = torch.tensor([1.0 if shot["output"] == "Yes." else -1.0 for shot in shots])

    def odds(model):
        """log P(Yes) - log P(No), each prompt alone, from all logits."""
        rows = [torch.tensor([ids]) for ids in encoder.prompts(shots).input_ids]
        return torch.stack([torch.sub(*model(ids).logits[0, -1, list(encoder.answer_ids)]) for ids in rows])

    start = adapters.attach_adapter(base, tiny_adapter, tuned=True).eval()
    lora = [parameter for parameter in start.parameters() if parameter.requires_grad]
    before = odds(start).detach()
    from datasets import Dataset

    torch.testing.assert_close(
        torch.tensor(preference.reference(start, encoder, shots)).float(), before, atol=1e-4, rtol=0
    )
    rows = tokenised(encoder, Dataset.from_list(shots)).add_column("reference", (before - 0.5 * signs).tolist())
    batch = preference.Rows(0)(list(rows))
    ours = preference.preference_loss(encoder)(start, batch)
    plain = -torch.nn.functional.logsigmoid(0.1 * signs * (odds(start) - before + 0.5 * signs)).sum()
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=0)
    for one, other in zip(torch.autograd.grad(ours, lora), torch.autograd.grad(plain, lora)):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-3)


@pytest.mark.slow
def test_a_frame_of_ones_own(few_shot, evaluate, tmp_path, monkeypatch):
    frame, flags = tmp_path / "mine.json", [tmp_path / "run", "--prompt_frame", tmp_path / "mine.json", *LAST]
    frame.write_text(block("json"))
    status, _, err = few_shot(*flags)
    assert status == 0, err
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    first = prompt_parts(frame)
    assert run["frame"] == "mine" and first.items() <= run["identity"].items()

    frame.write_text(block("json").replace("Answer", "Reply"))
    status, out, err = few_shot(*flags)
    second = prompt_parts(frame)
    assert (status, out) == (2, "")
    changed = f"prompt frame {first['prompt frame'][:12]}, not {second['prompt frame'][:12]}"
    assert err.startswith(f"error: --output_dir {tmp_path / 'run'}: holds another run's result: {changed}; give ")
    frame.write_text(block("json"))
    with monkeypatch.context() as patch:  # in an edited prompts.py
        patch.setattr("tlrec.model.prompts.ANSWERS", ("Ja.", "Nein."))
        changed = f"answers {first['answers'][:12]}, not {prompt_parts(frame)['answers'][:12]}"
        assert f"holds another run's result: {changed}; give " in few_shot(*flags)[2]
        refused = evaluate(tmp_path / "run")
    assert refused[0] == 2 and f"run: was tuned on other answers ({changed}); score it with the same\n" in refused[2]
    frame.unlink()
    folder = shutil.move(tmp_path / "run", tmp_path / "moved")
    status, out, err = evaluate(folder)
    assert status == 0 and "frame: mine\n" in out, err
    metrics = json.loads((tmp_path / "moved" / "metrics.json").read_text())
    assert first.items() <= metrics["run"]["identity"].items()
    status, out, err = evaluate(folder, "--resume")
    assert out.startswith(f"complete already: {folder}\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ('{"with_input": "{instruction} {input}"}', "the key 'without_input' is missing"),
        (
            '{"with_input": "{instruction}", "without_input": "{instruction}"}',
            "'with_input' must be a text with {instruction} and {input} once, and no other of the two",
        ),
        (
            '{"with_input": "{instruction} {input}", "without_input": "{instruction} {input}"}',
            "'without_input' must be a text with {instruction} once, and no other of the two",
        ),
    ],
)
def test_a_file_that_is_no_frame(instruct, tmp_path, content, message):
    frame = tmp_path / "mine.json"
    if content:
        frame.write_text(content)
    status, out, err = instruct(tmp_path / "run", "--prompt_frame", frame)
    assert (status, out) == (2, "") and err.startswith(f"error: {frame}: {message}")
    status, _, err = instruct(tmp_path / "run", "--prompt_frame", "alpacca")
    assert (status, err) == (
        2,
        "error: --prompt_frame alpacca: give alpaca, chat, tallrec, or the path of a JSON file\n",
    )

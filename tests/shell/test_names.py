"""Which adapter a launcher means.

1. LLaMA-7B by the published recipe has the published folder names, whatever else lies in the workspace.
2. Another base model, source, recipe, general adapter or choice of checkpoints has a folder of its own without EXP_NAME, in
   instruction_model/ and in output_model/; few_shot.sh finds zero_shot.sh's adapter by the same variables.
3. Without SOURCE few_shot.sh takes the only source that has an adapter; of several it asks for one.
4. EXP_NAME names every stage; hub names reach the scripts unchanged.
5. What a recipe's flags become; `published` and `original` are the published literals.
"""

import itertools
import shutil

import pytest

from tests.conftest import REPOSITORY
from tests.shell.conftest import make_adapter

MOVIE, FEW = ("zero_shot.sh", "cpu", "movie", "netflix"), ("few_shot.sh", "cpu", "0", "movie")
SOURCE_ONLY, COT_ONLY = {"STAGES": "source"}, {"STAGES": "cot"}


@pytest.mark.parametrize(
    "words, environment, names",
    [
        (MOVIE, {}, "alpaca_stage123 alpaca_stage123_instrument"),
        (MOVIE, {"STAGES": "source cot"}, "alpaca_instrument alpaca_instrument_stage123"),
        (MOVIE, COT_ONLY | {"GENERAL_ADAPTER": "none"}, "fresh_stage123"),
        (
            ("zero_shot.sh", "cpu", "book", "netflix"),
            COT_ONLY | {"VALID": "source"},
            "alpaca_stage123_netflix_valid-source",
        ),
        (MOVIE, {"EXP_NAME": "my-run"}, "my-run_stage123 my-run"),
    ],
    ids=str,
)
def test_names(launch, words, environment, names):
    *made, scored = launch(*words, **environment).steps
    folders = [f"instruction/{words[2]}/{name}" for name in names.split()]
    assert [step.split(" -> ")[1] for step in made] == folders and scored == f"zero-shot: {folders[-1]} -> -"


def test_everything_side_by_side(launch, root):
    """Two of each in one workspace: no folder twice, and few_shot.sh starts from the adapter that was just made."""
    other = root / "base_model" / "other model"
    other.mkdir()
    own_general = make_adapter(root / "tuned on chats")
    bases, recipes, sources = ({"BASE_MODEL": str(other)}, {}), ({"RECIPE": "small"}, {}), ("netflix", "amazon-book")
    generals = ({"GENERAL_ADAPTER": str(own_general)}, {})
    seen = set()
    for base, recipe, general, source in itertools.product(bases, recipes, generals, sources):
        environment = SOURCE_ONLY | {"SHOTS": "16 64"} | base | recipe | general
        adapter = launch(*MOVIE[:3], source, **environment).commands[0].flags.output_dir
        few = launch(*FEW, SOURCE=source, **environment).commands[0].flags
        alone = launch(*FEW, INSTRUCTION_ADAPTER="none", **environment).commands[0].flags
        assert (few.resume_from_checkpoint, alone.resume_from_checkpoint) == (adapter, None)
        seen |= {adapter, few.output_dir, alone.output_dir}
    # 16 adapters and results on them; shots alone depend neither on the source nor on the general adapter
    assert len(seen) == 16 + 16 + 4
    longest = "tuned on chats_instrument_amazon-book_small_other model"
    assert {f"{root}/instruction_model/movie/{name}" for name in ("alpaca_instrument", longest)} < seen


def test_the_only_source_that_has_an_adapter(launch, refused, root):
    movie = root / "instruction_model" / "movie"
    make_adapter(movie / "alpaca_stage123_instrument_small")  # another recipe's
    for environment, name in (({}, "_amazon-book"), ({"SOURCE": "netflix"}, "")):
        adapter = make_adapter(movie / f"alpaca_stage123_instrument{name}")
        assert launch(*FEW, **environment).commands[0].flags.resume_from_checkpoint == str(adapter)
    refused("SOURCE is not given, and movie has adapters from netflix amazon-book; give one of them, such", *FEW)
    refused(
        "no instruction adapter at {root}/instruction_model/movie/alpaca_stage123_instrument_new/", *FEW, SOURCE="new"
    )


def test_an_exported_name_means_one_experiment_everywhere(launch, root):
    """The name is that of zero_shot.sh's adapter, of the one few_shot.sh starts from, and of its results."""
    own, mine = make_adapter(root / "own"), {"EXP_NAME": "mine", "SHOTS": "4 8"}
    zero = launch(*MOVIE, STAGES="source ", BASE_MODEL="org/other", **mine)
    assert zero.steps == ["source: - -> instruction/movie/mine", "zero-shot: instruction/movie/mine -> -"]
    assert launch(*FEW, **mine).steps == ["few-shot: instruction/movie/mine -> output/movie/mine"]
    assert launch(*FEW, INSTRUCTION_ADAPTER=str(own), **mine).steps == ["few-shot: own -> output/movie/mine"]


def test_hub_names_reach_the_scripts_unchanged(launch):
    hub = {"BASE_MODEL": "meta-llama/Llama-3.1-8B", "GENERAL_ADAPTER": "tloen/alpaca-lora-7b", "SHOTS": "4 8"}
    zero, few = launch(*MOVIE, STAGES="source", **hub), launch(*FEW, STAGES="source", **hub)
    name = "movie/tloen--alpaca-lora-7b_instrument_meta-llama--Llama-3.1-8B"
    assert zero.steps[0] == f"source: tloen/alpaca-lora-7b -> instruction/{name}"
    assert few.steps == [f"few-shot: instruction/{name} -> output/{name}"]
    assert {command.flags.base_model for command in zero.commands + few.commands} == {hub["BASE_MODEL"]}
    few = launch(*FEW, SHOTS="4 8", INSTRUCTION_ADAPTER="some.one/lora_1")
    assert few.steps == ["few-shot: some.one/lora_1 -> output/movie/some.one--lora_1"]


# ------------------------------------------------------------------------------------------------------------- recipes


def holds(flags, wanted):
    assert {name: getattr(flags, name) for name in wanted} == wanted


def test_the_small_recipe_and_the_last_word(launch):
    """A recipe's flags come before the user's."""
    lora = {"lora_target_modules": ["all-linear"], "lora_dropout": 0, "batch_size": 16}
    tuner = launch(*MOVIE, "--num_epochs", "2", RECIPE="small", **SOURCE_ONLY).commands[0].flags
    holds(tuner, lora | {"learning_rate": 1e-3, "num_epochs": 2, "prompt_loss_weight": 0, "share_prefix": True})
    assert tuner.metric_for_best_model == "last"
    few = launch(*FEW, RECIPE="small", **SOURCE_ONLY).commands[0].flags
    holds(few, lora | {"learning_rate": 5e-4, "num_epochs": 4})


def test_the_recipe_of_docs_extend(launch, root):
    """The example of a recipe of one's own, in a copy of the launchers."""
    copy = root.parent / "copy"
    shutil.copytree(REPOSITORY / "shell", copy / "shell")
    for script in ("ins_tuning.py", "rec_tuning.py", "evaluate.py"):
        (copy / script).symlink_to(REPOSITORY / script)
    text = (REPOSITORY / "docs" / "extend.md").read_text().partition("## A recipe")[2]
    (copy / "shell" / "recipes" / "mine.sh").write_text(text.split("```")[1].removeprefix("bash\n"))
    zero = launch(copy / "shell" / MOVIE[0], *MOVIE[1:], RECIPE="mine").commands
    few = launch(copy / "shell" / FEW[0], *FEW[1:], RECIPE="mine").commands
    cot, source, scored, few, scored_too = (command.flags for command in (*zero, *few))
    assert [flags.lora_r for flags in (cot, source, few)] == [16, 16, 16]
    assert (cot.num_epochs, source.num_epochs, few.num_epochs, few.learning_rate) == (3, 1, 30, 5e-4)
    assert scored.dtype == scored_too.dtype == "float32" and few.test_data_path is None
    assert few.resume_from_checkpoint == source.output_dir and source.output_dir.endswith("_instrument_mine")


PUBLISHED = {  # ins_tuning.py and rec_tuning.py of the public repository; 512 tokens in its utils.py
    "batch_size": 128,
    "micro_batch_size": 32,
    "warmup_steps": 20,
    "cutoff_len": 512,
    **dict.fromkeys(("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")),  # see test_end_to_end_...
    "prompt_loss_weight": 1.0,
    "patience": 10,
}
STAGE = {
    "num_epochs": 3,
    "learning_rate": 3e-4,
    "metric_for_best_model": "auc",
    "eval_steps": 10,
    "group_by_length": False,
}
FEW_SHOT = {"num_epochs": 30, "learning_rate": 1e-4, "metric_for_best_model": "loss", "group_by_length": True}
TODAY = {"quantization": "none", "dtype": "auto", "prompt_frame": None}
ORIGINAL = {"quantization": "8bit", "dtype": "float16", "prompt_frame": "tallrec"}


@pytest.mark.parametrize("recipe, kind", [("published", TODAY), ("original", ORIGINAL)])
def test_the_published_literals(launch, recipe, kind):
    *stages, evaluation = (command.flags for command in launch(*MOVIE, RECIPE=recipe).commands)
    few, *scoring = (command.flags for command in launch(*FEW, RECIPE=recipe).commands)
    for flags in stages:
        holds(flags, PUBLISHED | STAGE | kind)
    holds(few, PUBLISHED | FEW_SHOT | kind | {"sample": [16, 64, 256]})
    if recipe == "published":  # as the adapter was tuned; few-shot runs by their own process
        holds(evaluation, {"quantization": None, "dtype": None, "prompt_frame": None, "merge": True})
        assert scoring == [] and few.test_data_path
    else:
        assert few.test_data_path is None
        assert scoring[0].lora_weights == [f"{few.output_dir}/0_{shots}" for shots in (16, 64, 256)]
        for flags in (evaluation, *scoring):
            holds(flags, {"quantization": "none", "dtype": "float16", "prompt_frame": "tallrec", "merge": False})

"""A plan from its sources and back."""

import json
import os
import subprocess
import sys
from dataclasses import fields, replace

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadtrain.errors import UsageError
from roadtrain.plan import (
    SECTIONS,
    Job,
    Place,
    Plan,
    Sync,
    as_dict,
    choose,
    complete,
    dumps,
    from_dict,
    load,
    parse,
    settings,
    with_keywords,
)

NUMBERS = st.floats(allow_nan=False)
VALUES = {str: st.text(), int: st.integers(-(2**63), 2**63 - 1), float: NUMBERS, bool: st.booleans()}


def values_of(setting):
    one = st.sampled_from(setting.choices) if setting.choices else VALUES[setting.kind]
    if setting.many:
        return st.lists(one, max_size=3).map(tuple)
    return st.none() | one if setting.optional else one


def sections():
    own = st.dictionaries(
        st.text(), st.one_of(*VALUES.values(), st.lists(st.text(), max_size=3).map(tuple)), max_size=3
    )
    return {"settings": own} | {
        section: st.builds(cls, **{s.name: values_of(s) for s in settings().values() if s.section == section})
        for section, cls in SECTIONS.items()
    }


PLANS = st.builds(Plan, **sections())


@hypothesis.settings(deadline=None)
@given(PLANS)
def test_a_plan_survives_its_text(plan):
    assert parse(dumps(plan)) == plan


@hypothesis.settings(deadline=None)
@given(PLANS)
def test_a_plan_survives_its_dictionary(plan):
    assert from_dict(as_dict(plan)) == plan


def test_a_default_that_is_none_is_the_only_way_to_spell_none():
    """`dumps` leaves None out, so the default of every optional setting has to be None."""
    assert all(setting.default is None for setting in settings().values() if setting.optional)


def test_the_text_has_one_table_for_each_section_and_no_none():
    text = dumps(Plan())
    assert [line[1:-1] for line in text.splitlines() if line.startswith("[")] == [f.name for f in fields(Plan)]
    assert "outer_lr" not in text
    assert "None" not in text


def test_later_sources_win(tmp_path):
    file = tmp_path / "plan.toml"
    file.write_text('[job]\nsteps = 2\nbatch = 2\nseed = 2\n[sync]\nstrategy = "asgd"\n')
    job = tmp_path / "job_with_defaults.py"
    job.write_text(
        'DEFAULTS = {"job": {"steps": 1, "batch": 1, "seed": 1, "precision": "bf16"}}\ndef make(plan): ...\n'
    )
    environment = {"ROADTRAIN_BATCH": "3", "ROADTRAIN_SEED": "3"}
    plan = load(f"{job}:make", file, environment, {("job", "seed"): 4})
    job = Job(target=f"{job}:make", steps=2, batch=3, seed=4, precision="bf16")
    assert plan == Plan(job=job, sync=Sync(strategy="asgd"))


def test_the_environment_is_spelt_after_flags_or_after_section_and_field():
    environment = {
        "ROADTRAIN_CODEC_DOWN": "int8",
        "ROADTRAIN_FRAGMENT_MB": "0.5",
        "ROADTRAIN_WATCH_KEEP": "7",
        "ROADTRAIN_DAMPING": "yes",
        "ROADTRAIN_OUTER_LR": "0.7",
        "PATH": "/bin",
    }
    plan = load("", None, environment, {})
    assert plan.codec.down == "int8"
    assert plan.sync == Sync(fragment_mb=0.5, damping=True, outer_lr=0.7)
    assert plan.watch.keep == 7


def test_every_variable_names_one_setting():
    variables = [setting.variable for setting in settings().values()]
    assert len(set(variables)) == len(variables)
    assert "ROADTRAIN_TOKEN" not in variables


def test_several_values_in_a_variable_are_separated_as_in_path():
    files = ["/a b.txt", "/c.txt"]
    slow = ["worker=0,factor=5", "worker=1,base=0.1"]
    environment = {"ROADTRAIN_DATA": os.pathsep.join(files), "ROADTRAIN_STRAGGLER": os.pathsep.join(slow)}
    plan = load("gpt", None, environment, {})
    assert plan.settings["data"] == tuple(files)
    assert plan.place == Place(straggler=tuple(slow))


def test_an_empty_variable_counts_as_not_set():
    assert load("", None, {"ROADTRAIN_STEPS": "", "ROADTRAIN_STRAGGLER": ""}, {("job", "steps"): 5}).job.steps == 5
    assert load("gpt", None, {"ROADTRAIN_STEPS": ""}, {}).job.steps == 1200


def test_the_token_is_no_setting():
    assert load("", None, {"ROADTRAIN_TOKEN": "s3cret", "ROADTRAIN_SEEDS": "all"}, {}) == Plan()


def test_an_unknown_variable_is_refused_with_the_nearest_name_and_without_its_value():
    with pytest.raises(UsageError) as refused:
        load("", None, {"ROADTRAIN_TOKNE": "s3cret"}, {})
    assert "'ROADTRAIN_TOKEN'" in refused.value.line()
    assert "s3cret" not in refused.value.line()


WRONG = {
    "unknown section": ("[jobb]\n", ["'jobb'", "did you mean 'job'?"]),
    "unknown key": ('[sync]\nstrategi = "ssgd"\n', ["'strategi'", "did you mean 'strategy'?"]),
    "no table": ("sync = 3\n", ["sync is 3", "[sync]"]),
    "text for a whole number": ('[job]\nsteps = "ten"\n', ["job.steps is 'ten'", "a whole number"]),
    "bool for a whole number": ("[job]\nsteps = true\n", ["job.steps is True", "a whole number"]),
    "float for a whole number": ("[job]\nsteps = 1.5\n", ["job.steps is 1.5", "a whole number"]),
    "bool for a number": ("[optimizer]\nlr = true\n", ["optimizer.lr is True", "a number"]),
    "whole number for a bool": ("[sync]\ndamping = 1\n", ["sync.damping is 1", "true or false"]),
    "number for text": ("[codec]\nup = 4\n", ["codec.up is 4", "text"]),
    "text for a list": ('[place]\nstraggler = "a"\n', ["place.straggler is 'a'", "a list of text"]),
    "number in a list": ("[place]\nstraggler = [1]\n", ["place.straggler is 1", "text"]),
    "not among the choices": ('[optimizer]\nname = "adam"\n', ["'adam'", "did you mean 'adamw'?"]),
    "a number beyond floats": (f"[optimizer]\nlr = 1{'0' * 400}\n", ["optimizer.lr is 1000", "a number"]),
    "no TOML": ("[sync\nname=", ["not TOML", "line 1"]),
    "a long value": (f'[job]\nsteps = "{"x" * 5000}"\n', ["job.steps", "..."]),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_mistake_in_a_file_is_one_line_that_names_the_file(what, tmp_path):
    text, parts = WRONG[what]
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as refused:
        load("", file, {}, {})
    line = refused.value.line()
    assert all(part in line for part in [*parts, str(file)]), line
    assert "\n" not in line
    assert len(line) < 400


def test_a_whole_number_is_a_number():
    lr = parse("[optimizer]\nlr = 1\n").optimizer.lr
    assert (type(lr), lr) == (float, 1.0)


@pytest.mark.parametrize(
    ("variable", "text"),
    [("ROADTRAIN_STEPS", "1e3"), ("ROADTRAIN_LR", "fast"), ("ROADTRAIN_DAMPING", "maybe"), ("ROADTRAIN_OWNERS", "gpu")],
)
def test_a_mistake_in_the_environment_names_the_variable(variable, text):
    with pytest.raises(UsageError, match=f"{variable}.*'{text}'"):
        load("", None, {variable: text}, {})


def test_a_flag_of_the_wrong_type_is_named_as_the_flag():
    with pytest.raises(UsageError, match=r"--steps is '5'; wanted a whole number"):
        load("", None, {}, {("job", "steps"): "5"})


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.toml").write_bytes(b'[job]\ntarget = "\xff"\n')
    for path, part in [("nothing.toml", "there is no"), (".", "cannot be read"), ("latin.toml", "not UTF-8")]:
        with pytest.raises(UsageError, match=part) as refused:
            load("", tmp_path / path, {}, {})
        assert "\n" not in refused.value.line()


def test_a_changed_field_changes_the_text():
    plan = Plan(settings={"data": ("a.txt",)})
    assert dumps(plan) != dumps(replace(plan, settings={"data": ("b.txt",)}))


def test_importing_the_plan_loads_nothing_heavy():
    program = "import sys, roadtrain.plan; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"torch", "numpy", "pydantic", "tomli_w", "tomllib", "grpc", "argparse"}
    ours = {name for name in loaded if name.startswith("roadtrain.") and not name.startswith("roadtrain.plan")}
    assert ours == {"roadtrain.errors"}


# ------------------------------------------------------------------------------------------------------------- scripts


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").touch()
    return str(tmp_path / "train.py")


def test_of_a_script_only_what_was_said_is_chosen(script, tmp_path):
    file = tmp_path / "plan.toml"
    file.write_text('[optimizer]\nclip = 2\n[codec]\nup = "my.py:C"\n')
    chosen = choose(script, [file], {"ROADTRAIN_BATCH": "3"}, {("place", "workers"): 2}, ("--workers", "9", "--"))
    assert chosen == {
        "job": {"target": script, "arguments": ["--workers", "9", "--"], "batch": 3},
        "optimizer": {"clip": 2.0},
        "codec": {"up": f"{tmp_path}/my.py:C"},
        "place": {"workers": 2},
    }
    plan = complete(chosen)
    assert plan.job == Job(target=script, arguments=("--workers", "9", "--"), batch=3)
    assert (plan.optimizer.clip, plan.optimizer.lr, plan.place.workers) == (2.0, 1e-3, 2)
    assert from_dict(json.loads(json.dumps(chosen))) == plan


def test_later_files_win(tmp_path):
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text('[job]\nsteps = 1\nbatch = 1\ntarget = "xor"\n')
    two.write_text("[job]\nsteps = 2\n")
    job = choose("gpt", [one, two], {}, {})["job"]
    assert job == {"target": "gpt", "arguments": [], "steps": 2, "batch": 1}


def test_what_was_chosen_goes_over_a_scripts_keywords_and_these_over_defaults(script, tmp_path):
    chosen = choose(script, [], {"ROADTRAIN_OUTER_LR": "0.5"}, {("sync", "strategy"): "diloco:7"})
    keywords = {
        "sync": "diloco:5",
        "outer_lr": 0.7,
        "outer_momentum": 0,
        "codec": "topk:0.1+my.py:C",
        "batch": 3,
        "clip": 1,
        "owners": "central",
        "lr_schedule": "cosine",
        "optimizer_beta2": 0.9,
        "damping": True,
    }
    plan = with_keywords(keywords, chosen)
    wanted = Sync(strategy="diloco:7", outer_lr=0.5, outer_momentum=0.0, owners="central", damping=True)
    assert plan.sync == wanted
    assert plan.codec.up == f"topk:0.1+{tmp_path}/my.py:C"
    assert (plan.job.batch, plan.job.target) == (3, script)
    assert (plan.optimizer.clip, plan.optimizer.schedule, plan.optimizer.beta2) == (1.0, "cosine", 0.9)
    assert with_keywords({}, chosen) == complete(chosen)


@pytest.mark.parametrize(
    ("keywords", "part"),
    [
        ({"snyc": "ssgd"}, "there is no keyword snyc (did you mean 'sync'?)"),
        ({"strategy": "ssgd"}, "there is no keyword strategy"),
        ({"schedule": "1f1b"}, "settled before a script begins (give --schedule to roadtrain run)"),
        ({"workers": 2}, "workers is settled before"),
        ({"job_target": "gpt"}, "settled"),
        ({"batch": "many"}, "batch is 'many'; wanted a whole number"),
        ({"batch": True}, "batch is True; wanted a whole number"),
        ({"owners": "centre"}, "owners cannot be 'centre' (did you mean 'central'?)"),
        ({"codec": "my.py"}, "names no class"),
    ],
)
def test_a_wrong_keyword_is_one_line(keywords, part):
    with pytest.raises(UsageError) as refused:
        with_keywords(keywords, {})
    assert part in refused.value.line()


def test_a_script_has_no_settings_of_its_own(script, tmp_path):
    file = tmp_path / "plan.toml"
    file.write_text("[settings]\nlayers = 2\n")
    with pytest.raises(UsageError, match="has no 'layers'"):
        choose(script, [file], {}, {})

"""Reading, splitting, deduplicating and converting rows."""

import gzip
import hashlib
import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.conversions import as_rows
from training.data import (
    Complaint,
    DataError,
    deduplicate,
    problem_of,
    question_id,
    read_rows,
    split_by_problem,
    write_rows,
)
from training.rows import (
    ROWS,
    Conversation,
    Groups,
    Labelled,
    Message,
    Pair,
    Prompted,
    Ranking,
    Row,
    Stepped,
)


def pair(prompt: str = "q", chosen: str = "a", rejected: str = "b", **more: Any) -> Pair:
    return Pair.model_validate(
        {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}, strict=False
    )


def labelled(prompt: str, reply: str, label: float, **more: Any) -> Labelled:
    return Labelled.model_validate({"prompt": prompt, "reply": reply, "label": label, **more})


def good(count: int) -> list[str]:
    return [json.dumps({"prompt": f"q{i}", "chosen": "a", "rejected": "b"}) for i in range(count)]


FAULTY = {
    "{'prompt': 'q'}": ("bad JSON", ""),
    '{"prompt": "q", "chosen": "a"}': ("missing field", "rejected"),
    '{"prompt": "q", "chosen": "", "rejected": "b"}': ("empty", "chosen"),
    '{"prompt": [{"role": "assistant", "content": "x"}], "chosen": "a", "rejected": "b"}': (
        "wrong role order",
        "prompt",
    ),
    '{"prompt": "q", "chosen": "a", "rejected": "b", "chosen_score": 1}': (
        "unknown field",
        "chosen_score",
    ),
    '{"prompt": "q", "chosen": 3, "rejected": "b"}': ("wrong value", "chosen"),
    '{"prompt": "too long", "chosen": "a", "rejected": "b"}': ("over the context", "prompt"),
}


def too_long(row: Pair) -> Complaint | None:
    words = len(row.prompt[0].content.split())
    return Complaint("over the context", f"{words} tokens", "prompt") if words > 1 else None


def test_faults_are_counted_and_named(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join([*good(8), "", *FAULTY]) + "\n")
    read = read_rows([path], Pair, check=too_long)
    assert len(read.rows) == 8
    assert [(fault.kind, fault.field) for fault in read.faults] == list(FAULTY.values())
    assert [fault.line for fault in read.faults] == list(range(10, 17))
    assert read.counts == {kind: 1 for kind, _ in FAULTY.values()}
    assert str(read.faults[2]) == f"{path}:12: chosen: empty"
    assert str(read.faults[6]) == f"{path}:16: prompt: 2 tokens"
    assert f"8 rows from {path}; left out 7: " in read.report


@pytest.mark.parametrize("line", FAULTY)
def test_strict_stops_at_the_first(tmp_path: Path, line: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join([*good(2), line, *good(2), "{"]))
    with pytest.raises(DataError, match=r"data\.jsonl:3: ") as raised:
        read_rows([path], Pair, strict=True, check=too_long)
    assert FAULTY[line][1] in str(raised.value)


def test_mostly_faulty_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join([*good(3), "{", "[]", "3"]))
    assert len(read_rows([path], Pair).rows) == 3
    path.write_text("\n".join([*good(3), "{", "[]", "3", '"x"']))
    with pytest.raises(DataError, match=r"4 of 7 rows cannot be used; the first: .*:4: "):
        read_rows([path], Pair)


def test_files_shards_and_patterns(tmp_path: Path) -> None:
    rows = [pair(f"q{i}") for i in range(4)]
    shards = tmp_path / "shards"
    write_rows(shards / "b.jsonl.gz", rows[1:2])
    write_rows(shards / "a.jsonl", rows[:1])
    write_rows(tmp_path / "c1.jsonl", rows[2:3])
    write_rows(tmp_path / "c2.jsonl.gz", rows[3:])
    (shards / "report.json").write_text("{}")
    read = read_rows([shards, tmp_path / "c*.jsonl*", shards / "a.jsonl"], Pair)
    assert list(read.rows) == rows
    files = [shards / "a.jsonl", shards / "b.jsonl.gz"]
    assert list(read.digests)[:2] == [str(file) for file in files]
    for file in files:
        assert read.digests[str(file)] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert read.digest != read_rows([tmp_path / "c*"], Pair).digest


def test_missing_empty_torn_and_mixed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        read_rows([tmp_path / "none.jsonl"], Pair)
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match=r"empty\.jsonl: no rows"):
        read_rows([tmp_path / "empty.jsonl"], Pair)
    torn = tmp_path / "torn.jsonl.gz"
    torn.write_bytes(gzip.compress("\n".join(good(100)).encode())[:-20])
    with pytest.raises(DataError, match=r"torn\.jsonl\.gz: not a whole gzip file"):
        read_rows([torn], Pair)
    for name in ("train", "test"):
        write_rows(tmp_path / "both" / f"{name}.jsonl.gz", [pair()])
    with pytest.raises(DataError, match="two splits"):
        read_rows([tmp_path / "both"], Pair)


def test_bytes_that_are_no_text_are_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(good(1)[0].encode() + b'\n{"prompt": "\xff"}\n')
    assert read_rows([path], Pair).counts == {"bad JSON": 1}


def test_written_files_are_equal_and_whole(tmp_path: Path) -> None:
    rows = [pair("½", source={"trace": "t"}), pair("r", margin=0.25)]
    first = write_rows(tmp_path / "a.jsonl.gz", rows)
    assert first == write_rows(tmp_path / "b.jsonl.gz", rows)
    assert first == hashlib.sha256((tmp_path / "a.jsonl.gz").read_bytes()).hexdigest()
    assert list(read_rows([tmp_path / "a.jsonl.gz"], Pair).rows) == rows
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.jsonl.gz", "b.jsonl.gz"]


def test_a_problem_is_its_question() -> None:
    plain = Prompted.model_validate({"prompt": "What  is\n6 times 7?"})
    told = Prompted.model_validate(
        {
            "prompt": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "what is 6 times 7?"},
            ]
        }
    )
    said = Conversation(messages=(*told.prompt, Message(role="assistant", content="42")))
    assert problem_of(plain) == problem_of(told) == problem_of(said)
    assert problem_of(plain) == question_id(plain.prompt)
    assert problem_of(pair("other")) != problem_of(plain)
    assert problem_of(pair("other", problem="7")) == "7"


PROBLEMS = st.lists(
    st.tuples(st.sampled_from("abcdefghijklmnop"), st.integers(0, 9)), min_size=1, max_size=40
)


@given(PROBLEMS, st.floats(0, 1), st.integers(0, 3), st.randoms(use_true_random=False))
def test_splits_keep_problems_together(
    made: list[tuple[str, int]], share: float, seed: int, order: random.Random
) -> None:
    rows = [labelled(f"question {name}", f"reply {number}", 1) for name, number in made]
    train, test = split_by_problem(rows, share, seed)
    assert len(train) + len(test) == len(rows)
    assert not {problem_of(row) for row in train} & {problem_of(row) for row in test}
    shuffled = order.sample(rows, len(rows))
    again = split_by_problem([*shuffled, labelled("a new one", "reply", 0)], share, seed)
    for before, after in zip((train, test), again, strict=True):
        assert {problem_of(row) for row in before} <= {problem_of(row) for row in after}


def test_splits_hold_about_their_share() -> None:
    rows = [labelled(f"question {number}", "reply", 1) for number in range(2000)]
    sizes = [len(split_by_problem(rows, 0.2, seed)[1]) for seed in range(5)]
    # A binomial of 2,000 and 0.2 has a standard deviation of 17.9.
    assert all(abs(size - 400) < 80 for size in sizes)
    assert len(set(sizes)) > 1
    assert split_by_problem(rows, 0)[1] == split_by_problem(rows, 1)[0] == []


SPACES = st.text(" \n\t", min_size=1, max_size=3)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), SPACES), max_size=20))
def test_duplicates_are_equal_but_for_white_space(made: list[tuple[str, str, str]]) -> None:
    rows = [
        labelled(f"is{space}{name}", f"it is{space}{reply}{space}", 1, source={"row": number})
        for number, (name, reply, space) in enumerate(made)
    ]
    kept = deduplicate(rows)
    assert len(kept) == len({(name, reply) for name, reply, _ in made})
    assert deduplicate(kept) == kept
    # The first of each, in their order.
    numbers = [row.source["row"] for row in kept]
    assert numbers == sorted(numbers)
    firsts = {made[number][:2]: number for number in reversed(range(len(made)))}
    assert numbers == sorted(firsts.values())


def test_what_differs_is_no_duplicate() -> None:
    rows = [labelled("q", "a", 1), labelled("q", "a", 0), labelled("q", "a", 1, reference="a")]
    assert deduplicate(rows) == rows


def test_pairs_groups_and_rankings_convert() -> None:
    common = {"problem": "7", "source": {"trace": "t"}, "reference": "4"}
    made = as_rows([pair("q", "a", "b", margin=2.0, **common)], Labelled)
    assert made == [labelled("q", "a", 1, **common), labelled("q", "b", 0, **common)]
    groups = Groups.model_validate({"prompt": "q", "chosen": ["a", "b"], "rejected": ["c", "d"]})
    assert [(row.chosen, row.rejected) for row in as_rows([groups], Pair)] == list(
        itertools.product("ab", "cd")
    )
    assert [(row.reply, row.label) for row in as_rows([groups], Labelled)] == [
        ("a", 1),
        ("b", 1),
        ("c", 0),
        ("d", 0),
    ]
    ranking = Ranking.model_validate({"prompt": "q", "replies": ["a", "b", "c"]})
    assert [(row.chosen, row.rejected) for row in as_rows([ranking], Pair)] == [
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
    ]


def test_steps_conversations_and_prompts_convert() -> None:
    steps = Stepped.model_validate({"prompt": "q", "steps": ["a\n", "b"], "labels": [1, 0.25]})
    assert as_rows([steps], Labelled) == [labelled("q", "a\nb", 0.25)]
    said = as_rows([labelled("q", "a", 1), labelled("q", "b", 0.5)], Conversation)
    assert [each.messages[-1].content for each in said] == ["a"]
    question = Prompted.model_validate({"prompt": "q"})
    assert as_rows([*said, steps, pair(), question], Prompted) == [question] * 4


def test_what_does_not_convert_says_so() -> None:
    with pytest.raises(DataError, match="rows of kind 'prompts' do not make 'pairs'"):
        as_rows([Prompted.model_validate({"prompt": "q"})], Pair)
    with pytest.raises(DataError, match="a pair of steps"):
        as_rows([pair(prefix="so ")], Labelled)


@pytest.mark.parametrize("kind", ROWS)
def test_rows_of_the_wanted_kind_stay(kind: str) -> None:
    row: Row = {
        "sft": Conversation(
            messages=({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"})
        ),
        "prompts": Prompted(prompt="q"),
        "pairs": pair(),
        "groups": Groups(prompt="q", chosen=("a",), rejected=("b",)),
        "rankings": Ranking(prompt="q", replies=("a", "b")),
        "labels": labelled("q", "a", 1),
        "steps": Stepped(prompt="q", steps=("a",), labels=(1.0,)),
    }[kind]
    assert as_rows([row], ROWS[kind])[0] is row

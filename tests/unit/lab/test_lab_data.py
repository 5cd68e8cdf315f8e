"""The lab's rows and items: splits that never mix, answers that are right, texts that the tokenizer gives back."""

import random
import re
from itertools import islice

import pytest

from alignment.core.errors import DataError
from alignment.data.rows import prompt_text
from alignment.lab import corpus, data, service, skills, world
from alignment.lab.tokenizer import make_tokenizer

SPLITS = ("train", "validation", "test")


def test_every_word_of_the_world_is_listed_once_per_kind_and_names_are_unique():
    assert len(set(world.NAMES)) == 60
    assert not set(world.SEEN_NAMES) & set(world.UNSEEN_NAMES)
    kinds = (world.NAMES, world.TOWNS, world.JOBS, world.PETS, world.COLOURS, world.FRUITS, world.PLACES, world.TOOLS)
    words = [word for kind in kinds for word in kind]
    assert len(words) == len(set(words)), "odd one out needs categories that do not overlap"


@pytest.mark.parametrize("skill", skills.SKILLS)
def test_an_item_has_the_same_split_whatever_seed_draws_it(skill):
    splits = {}
    for seed in range(3):
        rng = random.Random(seed)
        for _ in range(500):
            item = skills.SKILLS[skill](rng)
            splits.setdefault(item.prompt, set()).add(skills.split_of(skill, item.key))
    assert all(len(found) == 1 for found in splits.values())


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_no_question_of_a_test_item_is_in_any_training_corpus(seed):
    held_out = {f"{row['prompt']} {row['answer']}" for row in data.rows("skills", "test")}
    trained = {document.text for document in islice(corpus.documents("train", seed), 30_000)}
    assert len(held_out) > 2000
    assert not held_out & trained


def test_held_out_facts_are_stated_but_never_asked_in_any_phrasing():
    documents = list(islice(corpus.documents("train", 0), 30_000))
    asked = [document.prompt for document in documents if document.prompt.startswith("Question:")]
    stated = {document.text for document in documents}
    items = skills.items("facts", "test")
    for name, attribute in {tuple(item.cluster.split()) for item in items}:
        kind = next(kind for kind in world.ATTRIBUTES if kind.name == attribute)
        value = world.FACTS[name, attribute]
        assert any(s.format(name=name, value=value) in stated for s in kind.statements)
        assert not any(question.format(name=name) in prompt for question in kind.questions for prompt in asked)
    assert {len([i for i in items if i.cluster == c]) for c in {i.cluster for i in items}} == {4}


def test_each_skill_has_two_to_five_hundred_test_items():
    counts = {skill: len(skills.items(skill, "test")) for skill in skills.SKILLS}
    assert all(200 <= count <= 500 for count in counts.values()), counts


def test_answers_are_right():
    """Each key is checked by an oracle that reads the question's text alone."""
    for row in data.rows("skills", "test"):
        words, answer = re.findall(r"\w+", row["prompt"]), row["answer"].rstrip(".")
        match row["skill"]:
            case "add":
                a, b = map(int, re.findall(r"\d+", row["prompt"]))
                assert int(answer) == a + b
            case "compare":
                a, b = map(int, re.findall(r"\d+", row["prompt"]))
                assert answer == ("yes" if (a > b if "more" in words else a < b) else "no")
            case "sort":
                assert answer.split() == sorted(words[4:-1])
            case "backwards":
                assert answer.split() == words[-2:2:-1]
            case "agreement":
                assert answer.startswith("are" if words[1].endswith("s") else "is")
            case "odd":
                kinds = {word: next(k for k in skills._CATEGORIES if word in k) for word in words[6:-1]}
                assert [word for word in kinds if list(kinds.values()).count(kinds[word]) == 1] == [answer]
            case "sentiment":
                judged = row["prompt"].split(" was ")[-1].split(".")[0]
                assert answer == ("good" if (judged.split()[-1] in world.GOOD) != judged.startswith("not") else "bad")
        if row["choices"]:
            assert row["choices"].count(row["answer"]) == 1


@pytest.mark.parametrize("name", data.NAMES)
def test_rows_are_deterministic_and_fresh(name):
    first = data.rows(name, "validation")
    first[0].clear()
    assert data.rows(name, "validation")[0]
    assert data.rows(name, "validation")[1:] == first[1:]


def test_prompts_of_the_splits_are_disjoint_in_what_is_said():
    said = {}
    for split in (*SPLITS, "generalisation"):
        remarks = [service.parse_remark(prompt_text(row["prompt"])) for row in data.rows("guests", split)]
        said[split] = {(r.name, r.thing, r.adjective) for r in remarks}
    for one in said:
        for other in said:
            assert one == other or not said[one] & said[other]
    seen = {word for name, thing, _ in said["train"] for word in (name, thing)}
    assert not seen & {word for name, thing, _ in said["generalisation"] for word in (name, thing)}


def test_all_sets_on_guests_share_their_prompts():
    for split in (*SPLITS, "generalisation"):
        prompts = [row["prompt"] for row in data.rows("guests", split)]
        assert prompts == [row["prompt"] for row in data.rows("demonstrations", split)]
        assert prompts == [row["prompt"] for row in data.rows("expert", split)]


def test_an_unknown_split_is_the_users_error():
    with pytest.raises(DataError, match="no split 'dev'"):
        data.rows("guests", "dev")


def test_the_tokenizer_gives_every_text_back():
    tokenizer = make_tokenizer()
    texts = [row["text"] for row in data.rows("corpus", "train")[:3000]]
    texts += [row["completion"][0]["content"] for row in data.rows("expert", "generalisation")]
    texts += [f"{row['prompt']} {choice}" for row in data.rows("skills", "test") for choice in row["choices"]]
    for text, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True):
        assert tokenizer.unk_token_id not in ids, text
        assert tokenizer.decode(ids) == text
    assert 300 <= len(tokenizer) <= 450
    assert tokenizer.convert_ids_to_tokens(tokenizer("24 + 9.")["input_ids"]) == ["2", "4", "+", "9", "."]


def test_the_chat_template_marks_the_answer_with_its_end():
    tokenizer = make_tokenizer()
    messages = [{"role": "user", "content": "Hallu here."}, {"role": "assistant", "content": "Sleep well."}]
    chat = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    tokens = tokenizer.convert_ids_to_tokens(chat["input_ids"])
    assert tokens == ["<|user|>", "Hallu", "here", ".", "<|end|>", "<|assistant|>", "Sleep", "well", ".", "<|end|>"]
    assert chat["assistant_masks"] == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, tokenize=False).endswith(
        "<|end|><|assistant|>"
    )
    assert tokenizer.pad_token_id != tokenizer.eos_token_id

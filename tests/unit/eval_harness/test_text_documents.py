"""Cutting long texts into documents: nothing is lost, nothing is too long, articles stay told apart."""

from hypothesis import given, settings
from hypothesis import strategies as st

from eval.text_tasks import BLOCK_BYTES, documents

LINES = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=300), max_size=80)


@settings(max_examples=60, deadline=None)
@given(LINES)
def test_blocks_join_to_the_text_again(lines):
    text = "\n".join(lines) or "x"
    assert "".join(doc["text"] for doc in documents([text])) == text


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text("ab é", min_size=1, max_size=400), min_size=60, max_size=90))
def test_blocks_are_about_2000_bytes(lines):
    blocks = [len(doc["text"].encode()) for doc in documents(["\n".join(lines * 5)])]
    longest_line = max(len(line.encode()) for line in lines) + 1
    assert all(BLOCK_BYTES <= size < BLOCK_BYTES + longest_line + BLOCK_BYTES // 4 for size in blocks[:-1])


def test_short_texts_stay_whole():
    texts = ["One day.\n\nThe end.", "x" * 7999]
    assert documents(texts) == [{"text": text, "source": None} for text in texts]


def test_wikitext_is_cut_at_its_titles():
    def article(title: str, paragraphs: int) -> str:
        return f" = {title} = \n \n = = Part = = \n" + (" word" * 250 + " \n") * paragraphs

    text = " \n" + article("One", 4) + article("Two", 8)
    docs = documents(["short", text])
    assert [doc["source"] for doc in docs] == [None, "1.0", "1.0", "1.1", "1.1", "1.1", "1.1"]
    assert [doc["text"].lstrip()[:7] for doc in docs if "= " in doc["text"][:9]] == ["= One =", "= Two ="]
    assert "".join(doc["text"] for doc in docs[1:]) == text


def test_a_long_text_without_titles_has_independent_blocks():
    docs = documents([("a" * 99 + "\n") * 100])
    assert [len(doc["text"]) for doc in docs] == [2000] * 5
    assert {doc["source"] for doc in docs} == {None}

"""Makes the training files of the shipped bundle: the corpus, and our own requests around its permitted rows.

usage: augment.py OUT_DIR [--data DIR] [--seed N]
DIR (default: $GUILDHALL_DATA) holds prompts/{train,valid}.jsonl.gz. Writes OUT_DIR/{train,valid}.jsonl.gz.
A fifth of the permitted rows and of our own is also written once more with words around it that say nothing about it
("Dear assistant", "Thanks in advance", "Task:"), marked `wrapped`. They are other words than those that
`guildhall eval router` measures robustness with.
Only permitted rows of the train split lend text to a template. Rows that are not permitted stay in the files, so that
the trainer leaves them out by licences.txt and counts them in the manifest. The result depends on seed and data alone.
"""

import argparse
import collections
import gzip
import json
import os
import pathlib
import random

from licences import permitted
from templates import creative, material, queries, subjects, talk, text_tasks, variety
from templates.grammar import Grammar

SOURCE = "guildhall-templates"


def read(path):
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write(path, rows):
    # A fixed time stamp: the same rows give the same bytes.
    with open(path, "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as out:
        for row in rows:
            out.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


def roughen(rng, text):
    """A share of the requests as people type them: lower case, no final stop, a greeting, doubled blanks."""
    roll = rng.random()
    if roll < 0.08:
        return text.lower()
    if roll < 0.11:
        return text.rstrip(".?! ")
    if roll < 0.13:
        return rng.choice(["Hi, ", "Please help: ", "Hello! ", "hey ", "Question: "]) + text
    return text


BEFORE = [
    "Good morning! ", "Hey there, quick question: ", "I would like to ask you something. ", "Dear assistant,\n\n",
    "Here is my request:\n", "Task: ", "Instruction: ", "Q: ", "Okay, next one. ", "Could you handle this please? ",
    "You are a helpful assistant.\n\n", "[INST] ", "Sorry to bother you again, but ", "My boss wants me to send you this: ",
    "Question 7.\n", "Now do the next one:\n\n", "Input:\n", "- ",
]  # fmt: skip
AFTER = [
    "\n\nThanks in advance.", " Thanks!", "\n\nBe brief.", "\n\nExplain what you did.", "\nAnswer:", "\n\nLet's think step by step.",
    "\n\nOutput:", "\n\nBest regards,\nSam", " Please.", "\n\nDo your best.", "\n\nIf you are not sure, say so.", " [/INST]",
    "\n\nAnswer in one paragraph.", "\n\nIt is urgent!", "\n\nNo introduction, just the result.", " I will be back in an hour.",
]  # fmt: skip


def wrapped(rows, seed):
    """A fifth of the rows once more, with words around them that say nothing about the task."""
    rng = random.Random(seed)
    for row in rows:
        if rng.random() < 0.2:
            where = rng.choice(("before", "after", "both"))
            before = rng.choice(BEFORE) if where != "after" else ""
            after = rng.choice(AFTER) if where != "before" else ""
            yield row | {"text": before + row["text"] + after, "wrapped": True}


def augmented(rows, seed):
    """Our own requests as corpus rows, without duplicates."""
    rng = random.Random(seed)
    rules = dict(material.WORLD)
    for module in (talk, creative, variety):
        rules |= module.RULES
    for block in (subjects.LEGAL, subjects.MEDICAL, subjects.LOGIC, subjects.SCIENCE, subjects.KNOWLEDGE):
        clash = set(rules) & set(block)
        assert not clash - {"post"}, clash
        rules |= {name: rule for name, rule in block.items() if name != "post"}
    rules["trouble_post"] = subjects.LEGAL["post"]
    rules["legal"] = [text.replace("{post}", "{trouble_post}") for text in subjects.LEGAL["legal"]]
    grammar = Grammar(rng, rules)
    lent = {
        "sentences": material.plain_sentences(rows),
        "passages": material.passages(rows),
        "chat": material.chat_lines(rows),
        "tweets": material.tweets(rows),
        "questions": [
            (row["text"], row["license"])
            for row in rows
            if row["source"].startswith(("NQ-open", "OpenTriviaQA")) and len(row["text"]) < 120 and "\n" not in row["text"]
        ],
        "exam": material.exam_questions(rows),
    }
    seen = {row["text"] for row in rows}
    for module in (text_tasks, talk, creative, queries, subjects, variety):
        for category, text, licence in module.rows(grammar, rng, lent):
            text = roughen(rng, text)[:1500]
            if text not in seen:
                seen.add(text)
                yield {"text": text, "category": category, "source": SOURCE, "license": licence}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path, default=os.environ.get("GUILDHALL_DATA"))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.data is None:
        parser.error("give --data DIR or set GUILDHALL_DATA to the folder that holds prompts/")
    options.out.mkdir(parents=True, exist_ok=True)
    corpus = read(options.data / "prompts/train.jsonl.gz")
    train = [row for row in corpus if permitted(row)]
    made = list(augmented(train, options.seed))
    around = list(wrapped(train + made, options.seed))
    write(options.out / "train.jsonl.gz", corpus + made + around)
    valid = read(options.data / "prompts/valid.jsonl.gz")
    write(options.out / "valid.jsonl.gz", valid)
    valid = [row for row in valid if permitted(row)]
    print(f"train: {len(train)} of {len(corpus)} rows permitted, {len(made)} own requests, {len(around)} rows wrapped; valid: {len(valid)} permitted")
    for name, count in sorted(collections.Counter(row["category"] for row in train + made).items()):
        own = sum(row["category"] == name for row in made)
        print(f"  {name:28} {count:6} of which own {own}")


if __name__ == "__main__":
    main()

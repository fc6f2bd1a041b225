"""Write train.jsonl and eval.jsonl: notes of a railway's lost-property office.

`python make.py` writes them beside this file; the same seed gives the same rows.
"""

from __future__ import annotations

import json
import random
from itertools import product
from pathlib import Path

SEED = 7
N_TRAIN = 96
N_EVAL = 48

# No prompt names the clerk: that each station has its own is what training can teach.
CLERKS = {
    "Oakmere": "Mrs Lindqvist",
    "Saltwick": "Mr Adeyemi",
    "Fernley": "Ms Novak",
    "Tarn Bridge": "Mr Haddad",
    "Quay Road": "Mrs Pereira",
    "Elm Cross": "Ms Byrne",
    "Hollin": "Mr Tanaka",
    "Market Hill": "Ms Okafor",
}
COLOURS = ["black", "blue", "brown", "green", "grey", "red", "white", "yellow"]
THINGS = [
    "umbrella",
    "scarf",
    "backpack",
    "glove",
    "hat",
    "suitcase",
    "notebook",
    "violin",
    "lunchbox",
    "wallet",
    "teddy",
    "helmet",
]

# From here on nothing is told by the prompt. How often each wording comes can be learnt; which
# one comes in a given row can only be memorised, and that makes the eval loss rise again.
OPENINGS = [
    "A {thing} was left at {station}",
    "A {thing} turned up at {station}",
    "A {thing} is waiting at {station}",
    "Lost at {station}: a {thing}",
    "Found at {station}: a {thing}",
    "Somebody forgot a {thing} at {station}",
    "{station} has found a {thing}",
    "{station} is minding a {thing}",
]
MOODS = [
    "tired",
    "cheerful",
    "sleepy",
    "kind",
    "young",
    "tall",
    "friendly",
    "quiet",
    "curious",
    "polite",
    "patient",
    "shy",
    "lucky",
    "smiling",
    "hungry",
    "busy",
]
FINDERS = [
    "baker",
    "nurse",
    "student",
    "teacher",
    "plumber",
    "tourist",
    "cyclist",
    "gardener",
    "musician",
    "postman",
    "dentist",
    "cook",
    "farmer",
    "painter",
    "sailor",
    "builder",
    "lawyer",
    "jogger",
    "grandmother",
    "waiter",
]
HANDED = [
    "brought it to",
    "gave it to",
    "handed it to",
    "took it to",
    "left it with",
    "ran with it to",
]


def note(chance: random.Random, thing: str, station: str) -> str:
    """Return one note, its wording and its finder drawn by `chance`."""
    opening = chance.choice(OPENINGS).format(station=station, thing=thing)
    finder = f"a {chance.choice(MOODS)} {chance.choice(FINDERS)}"
    return f"{opening}; {finder} {chance.choice(HANDED)} {CLERKS[station]}."


def main() -> None:
    """Write both files. No prompt stands in both."""
    chance = random.Random(SEED)
    facts = list(product(COLOURS, THINGS, CLERKS))
    rows = []
    for colour, thing, station in chance.sample(facts, N_TRAIN + N_EVAL):
        # The arrow and the space part the two where no chat template does.
        prompt = f"{colour} {thing}, {station} =>"
        completion = " " + note(chance, f"{colour} {thing}", station)
        rows.append(json.dumps({"prompt": prompt, "completion": completion}) + "\n")
    folder = Path(__file__).parent
    (folder / "train.jsonl").write_text("".join(rows[:N_TRAIN]))
    (folder / "eval.jsonl").write_text("".join(rows[N_TRAIN:]))


if __name__ == "__main__":
    main()

"""Make the text that the demo ships with from a folder of books.

    python tools/make_demo_data.py BOOKS

BOOKS holds `train.txt` (what the embedded teacher was trained on), `valid.txt` and `test.txt` (what
it was not), whole books separated by two blank lines, and `list.json`, which describes every book
by split, author, title, year and characters. A book is found by its length in characters, which
must be unique within its split. The same folder always gives the same bytes.

Written to src/boomerang/demo/assets: `train.txt.gz`, `heldout.txt.gz` and `books.json`.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parents[1] / "src" / "boomerang" / "demo" / "assets"
SEPARATOR = "\n\n\n"

# Written in English in the first place, so no translator has rights in them; one book an author.
TRAIN = (
    "Alice's Adventures in Wonderland",
    "The Wonderful Wizard of Oz",
    "A Little Princess",
    "The Wind in the Willows",
    "Captains Courageous",
    "Hospital Sketches",
    "The Sign of the Four",
    "Treasure Island",
    "The Adventures of Tom Sawyer",
    "War of the Worlds",
    "Three Men in a Boat",
    "The Call of the Wild",
    "Northanger Abbey",
    "The Picture of Dorian Gray",
    "The Lair of the White Worm",
    "Frankenstein",
)
HELDOUT = ("The Time Machine", "The Hound of the Baskervilles")

Book = dict[str, Any]


def read_split(folder: Path, split: str, books: list[Book]) -> dict[str, str]:
    """The text of every book of a split, by title.

    Args:
        folder: Where `{split}.txt` is.
        split: `"train"`, `"valid"` or `"test"`.
        books: The entries of `list.json`.

    Raises:
        ValueError: Books and texts cannot be matched one to one by their lengths.
    """
    titles = {book["characters"]: book["title"] for book in books if book["split"] == split}
    documents = (folder / f"{split}.txt").read_text(encoding="utf-8").split(SEPARATOR)
    if sorted(titles) != sorted(len(document) for document in documents):
        raise ValueError(f"{folder / split}.txt: lengths of the books differ from list.json")
    return {titles[len(document)]: document for document in documents}


def main(folder: Path, out: Path = ASSETS) -> None:
    """Write the two texts and the list of books to `out`."""
    books: list[Book] = json.loads((folder / "list.json").read_text(encoding="utf-8"))
    entries = {book["title"]: book for book in books}
    trained = read_split(folder, "train", books)
    unseen = read_split(folder, "valid", books) | read_split(folder, "test", books)
    shipped = []
    for split, titles, documents in (("train", TRAIN, trained), ("heldout", HELDOUT, unseen)):
        text = SEPARATOR.join(documents[title] for title in titles)
        # No time stamp, so that equal text gives equal bytes.
        (out / f"{split}.txt.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))
        shipped += [entries[title] | {"split": split} for title in titles]
    # Without the year, which for Aesop and the like is not that of the edition.
    teacher = [
        {key: book[key] for key in ("title", "author", "characters")}
        for book in books
        if book["split"] == "train"
    ]
    listing = json.dumps({"shipped": shipped, "teacher": teacher}, indent=1)
    (out / "books.json").write_text(listing + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

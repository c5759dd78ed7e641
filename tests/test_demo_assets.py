from __future__ import annotations

import json

from boomerang.demo import assets


def test_every_shipped_book_is_whole_and_named() -> None:
    documents = assets.training_documents() + assets.heldout_documents()
    assert [len(document) for document in documents] == [
        book["characters"] for book in assets.books()
    ]
    assert all(book["title"] and book["author"] and book["year"] < 1929 for book in assets.books())


def test_held_out_books_are_unknown_to_the_teacher() -> None:
    listing = json.loads((assets.teacher_path().parent / "books.json").read_text())
    known = {book["title"] for book in listing["teacher"]}
    for book in assets.books():
        assert (book["title"] in known) == (book["split"] == "train")

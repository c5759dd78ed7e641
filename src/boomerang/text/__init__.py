"""Text for training and for measuring: documents, conversations, rows of tokens, windows.

`documents` reads files, `sources` says what a recipe may name, `tokenise` turns documents into
tokens, and `pack` turns tokens into rows of one length. `prepare` does all of this once for a run
and writes the rows to an Arrow file, which `rows` maps into memory. `windows` cuts the text to
measure on. Only preparing and mapping rows needs the library `datasets`; `Rows` over arrays do not.
"""

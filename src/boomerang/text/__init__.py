"""Text for training and for measuring: documents, rows of tokens, windows."""

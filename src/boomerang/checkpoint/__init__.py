"""Checkpoints on disk: where they are, what they hold, and how new ones come to be."""

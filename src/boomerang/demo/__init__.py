"""The embedded teacher and text, and the demo run."""

"""Results as a figure and as a table, from rows alone."""

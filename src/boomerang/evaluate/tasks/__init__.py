"""Tasks of lm-evaluation-harness, for all members of a family at once.

Nothing here but `options` and `suite` may be imported without the extra `tasks`.
"""

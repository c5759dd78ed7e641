"""Tasks of lm-evaluation-harness, for all members of a family at once.

Nothing here but `suite` may be imported without the extra `tasks`.
"""

"""Damaged and hostile files of every format: each opens, or is refused in one line; nothing crashes, hangs or fills memory.

``pytest tests/fuzz`` runs a small fixed set; ``python -m tests.fuzz --count 3000`` a large one.
"""

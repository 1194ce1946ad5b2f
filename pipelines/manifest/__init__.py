"""Manifests: files of prompts in any of five formats, as checked and typed Arrow columns.

`files` reads, `columns` says which column is what, `rows` checks and converts.
"""

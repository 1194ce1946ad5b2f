"""Manifests: read prompts in any of five file formats into checked, typed Arrow columns.

`files` reads the files, `columns` decides what each column is for, `row_reader` checks and converts
the rows.
"""

"""The studio: a local page to make and edit sounds in, and the HTTP API below it.

`app` answers requests, `jobs` works on what they ask for, one at a time, and `history` keeps what
was made as ordinary files.
"""

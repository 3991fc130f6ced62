"""The web client of a device: one kept connection, counted, and bounded in bytes and time.

`source` holds settings and their rules, `connection` speaks with a server, `refusal` says what a status means.
"""

"""The web client of a device: one kept connection, counted, and bounded in bytes and time.

`source` holds the settings of a server and their rules, `connection` speaks with it, and `refusal` says what a status
means for a device.
"""

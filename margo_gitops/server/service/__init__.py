"""The process: its configuration, how its parts are put together, its connections and its end."""

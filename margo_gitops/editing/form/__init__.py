"""A deployment as a form in the terminal."""

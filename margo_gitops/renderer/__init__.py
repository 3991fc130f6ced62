"""The renderer: fleet repo to state repo, as one program."""

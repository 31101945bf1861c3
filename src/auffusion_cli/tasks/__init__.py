"""Tasks of a user: each module reads top to bottom, and none touches the terminal."""

"""What a user can do: each module reads top to bottom, and none touches the terminal."""

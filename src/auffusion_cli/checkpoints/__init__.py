"""Names -> folders -> `Model`: download, layout, weights, load and save."""

"""Log-mels, attention maps and curves as PNG pictures."""

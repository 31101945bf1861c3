"""The command line: `app.main` is the entry point; one file a command."""

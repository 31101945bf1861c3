"""Evaluation of generated sound: the field's metrics, with intervals and checks of the files."""

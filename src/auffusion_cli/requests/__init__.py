"""Requests as users write them, checked, and the records of them. No torch."""

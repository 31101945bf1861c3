"""What is asked, as users write it, checked; and the record of it. No torch."""

"""How good generated sound is: metrics as the field computes them, and what speaks against them."""

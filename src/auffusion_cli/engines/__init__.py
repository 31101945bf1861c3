"""The networks of a model, computed by one engine or another: arrays in, arrays out."""

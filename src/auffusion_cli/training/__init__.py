"""Training: data, scenes, one loop, and one file a stage."""

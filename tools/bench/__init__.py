"""What ``tools/benchmark.py`` compares: networks of this zoo, their counterparts elsewhere, and the clips they see."""

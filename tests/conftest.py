"""What holds for every test."""

from hypothesis import settings

# A busy core may pause any example for longer than hypothesis allows by default. And one tree has one verdict: new
# counterexamples are for those who look for them (`pytest --hypothesis-profile random`).
settings.register_profile("thinwire", deadline=None, derandomize=True)
settings.register_profile("random", deadline=None)
settings.load_profile("thinwire")

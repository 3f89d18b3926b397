"""What holds for every test."""

from hypothesis import settings

# A busy core may pause any example for longer than hypothesis allows by default. And one tree has one verdict: new
# counterexamples are for those who look for them, at random (`pytest --hypothesis-profile default`).
settings.register_profile("thinwire", deadline=None, derandomize=True)
settings.load_profile("thinwire")

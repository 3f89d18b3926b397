from hypothesis import settings

# A busy core may pause any example for longer than hypothesis allows by default.
settings.register_profile("thinwire", deadline=None)
settings.load_profile("thinwire")
